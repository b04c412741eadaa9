"""LoRA inside the B-cos layers, through peft."""
