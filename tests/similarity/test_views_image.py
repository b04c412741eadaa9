"""Heat maps as pictures."""

import re
import sys
import warnings

import numpy as np
import pytest
from helpers.similarities import far, hostile, near, pair, tokens

from bcos_peft.similarity.layout import _layout_pair


def test_matplotlib_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'to_image needs matplotlib: pip install "bcos-peft\[notebooks\]"'):
        near().to_image(tmp_path / "map.png")


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg or \.pdf"):
        near().to_image(tmp_path / "map.gif")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        near().to_image(tmp_path / "none" / "map.svg")


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_pictures_are_written_and_equal_each_time(tmp_path, name, start):
    pytest.importorskip("matplotlib")
    for found in (near(), near() - far()):
        found.to_image(tmp_path / name)
        once = (tmp_path / name).read_bytes()
        assert once.startswith(start)
        found.to_image(tmp_path / name)
        assert (tmp_path / name).read_bytes() == once


def panels(found, **options):
    """The axes of a heat map, and the figure."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from bcos_peft.similarity.views.image import _fill

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    _fill(figure, found._view("word", options.get("hide_special", False), 0), None)
    figure.canvas.draw()
    return figure, figure.axes


def test_rows_are_the_longer_text_and_cells_have_their_numbers():
    found = pair(tokens("a b"), tokens("c d e"))
    figure, (axis, _) = panels(found)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["[CLS]", "c", "d", "e", "[SEP]"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["[CLS]", "a", "b", "[SEP]"]
    (image,) = axis.get_images()
    np.testing.assert_array_equal(image.get_array(), found.matrix.T)
    scale = _layout_pair(found).scale
    assert image.get_clim() == (-scale, scale)
    assert len(axis.texts) == found.matrix.size
    assert re.fullmatch(r"cosine \d\.\d+ = pairs \d\.\d+", figure.get_suptitle())


def test_labels_of_long_texts_keep_apart():
    found = pair(tokens(" ".join(f"word{i}" for i in range(78))), tokens(" ".join(f"other{i}" for i in range(38))))
    figure, (axis, _) = panels(found)
    assert not axis.texts, "no room for numbers"
    for labels, side in ((axis.get_yticklabels(), 1), (axis.get_xticklabels(), 0)):
        boxes = sorted(
            (box.get_points()[:, side] for box in (label.get_window_extent() for label in labels)),
            key=lambda box: box[0],
        )
        assert all(before[1] <= after[0] for before, after in zip(boxes[:-1], boxes[1:], strict=True))
        assert all(label.get_fontsize() == 8 for label in labels)
    assert figure.get_size_inches()[0] < 14


def test_texts_are_no_mathematics(tmp_path):
    figure, (axis, _) = panels(hostile())
    assert any("$y^2$" in label.get_text() for label in axis.get_yticklabels() + axis.get_xticklabels())
    broken = pair(tokens("$\\frac{$ $\\bad$"), tokens("a"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken.to_image(tmp_path / "a.svg")


def test_a_difference_has_a_map_for_each_document():
    _, axes = panels(near() - far(), hide_special=True)
    assert [axis.get_ylabel() or axis.get_xlabel() for axis in axes[:2]] == ["query", "query"]
    assert [axis.get_images()[0].get_clim() for axis in axes[:2]] == [(-0.375, 0.375)] * 2


def test_long_words_are_cut():
    _, (axis, _) = panels(pair(tokens("Donaudampfschifffahrtsgesellschaft"), tokens("a")))
    assert "Donaudampfschifffahrt…" in [label.get_text() for label in axis.get_yticklabels()]
