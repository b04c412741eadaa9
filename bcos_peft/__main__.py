"""`python -m bcos_peft`: the command `bcos-peft`, for launchers that start modules."""

from bcos_peft.cli import app


if __name__ == "__main__":
    app(prog_name="bcos-peft")
