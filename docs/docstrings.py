"""Extension of griffe, which reads the docstrings for the API reference (mkdocs.yml)."""

import re

import griffe


class ExampleSections(griffe.Extension):
    """Read the section `Example:` as griffe's `Examples:`, whose `>>>` lines are set as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rename the section in the docstring of a loaded object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
