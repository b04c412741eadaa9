"""Views draw plain values: in the terminal, as HTML, as SVG."""
