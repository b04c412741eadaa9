"""The command `bcos-peft`."""
