"""Converted models: the plan of a conversion, the generated classes, saving and sharing."""


def __getattr__(name: str):
    # Pickle, and the stub of models that were pushed, look generated classes up by name.
    from bcos_peft.models.generated import class_named

    return class_named(name)
