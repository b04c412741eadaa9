"""What an evaluation gives."""
