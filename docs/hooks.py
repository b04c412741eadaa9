"""Hooks of the documentation site (mkdocs.yml)."""


def on_page_markdown(markdown: str, **kwargs) -> str:
    """Drop the `no-run` mark of tests/test_docs.py, which the highlighter would take for an unknown option."""
    return markdown.replace("```python no-run\n", "```python\n")
