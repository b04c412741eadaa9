"""From text to explanations, and what can be read off, saved and shown of them."""
