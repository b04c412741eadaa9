"""Explanations in the terminal: every number, legible colours, and nothing that a hostile text could smuggle in."""

import io
import re

import pytest
from helpers.views import HOSTILE, make, pair, plain, review
from rich.console import Console

from bcos_peft.explanation import export_svg, render_html, show
from bcos_peft.explanation.views import terminal


def empty():
    return make("", [], [], logit=0.0)


def coloured(explanation, width=200, **options):
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=True, color_system="truecolor", no_color=False, legacy_windows=False
    )
    show(explanation, console=console, **options)
    return file.getvalue()


def without_escapes(output):
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def squeezed(output):
    return re.sub(r" +", " ", output)


# ---- terminal ------------------------------------------------------------------------------------


def test_plain_output_tells_the_story():
    lines = plain(review()).splitlines()
    assert lines[0] == "predicted positive  probability 0.875  logit +1.16"
    assert lines[2] == ("[CLS][+0.25] A[+0.01] gripping[+2.00],[-0.02]  dull[-1.25] film[+0.30] [SEP][-0.13]")
    assert lines[-1] == "Σ contributions +1.16 = logit +1.16 (residual 1e-7)"
    assert re.search(r"^gripping +\+2\.00 +│█{12} *$", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^dull +-1\.25 +▐█{7}│ *$", "\n".join(lines), re.MULTILINE)


def test_plain_output_has_no_escapes():
    assert "\x1b" not in plain(review())


def test_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    show(review(), console=Console(file=file, width=200, force_terminal=True, color_system="truecolor"))
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", file.getvalue())
    assert "gripping[+2.00]" in without_escapes(file.getvalue())


def test_colours_are_in_proportion():
    output = coloured(review())
    assert "48;2;36;99;222mgripping" in output  # the largest: full blue
    ground, full = (44, 46, 52), (182, 78, 0)
    mixed = ";".join(str(round(a + (b - a) * 0.625)) for a, b in zip(ground, full, strict=True))
    assert f"48;2;{mixed}mdull" in output  # 1.25 / 2 of the way to orange
    assert "against positive -2.00" in without_escapes(output)
    assert "+2.00 for positive" in without_escapes(output)
    assert "gripping[" not in output


def test_light_terminal(monkeypatch):
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert "48;2;96;162;255mgripping" in coloured(review())


def contrast(one, two):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def blend(one, two, share):
    return [a + (b - a) * share for a, b in zip(one, two, strict=True)]


@pytest.mark.parametrize("palette", [terminal._DARK, terminal._LIGHT], ids=["dark", "light"])
@pytest.mark.parametrize("side", ["for", "against"])
def test_terminal_ink_is_legible_on_every_step(palette, side):
    for step in range(11):
        assert contrast(palette["ink"], blend(palette["ground"], palette[side], step / 10)) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_legible_on_every_step(scheme):
    declared = re.search(rf"color-scheme: {scheme};(.*?)\}}", render_html([]), re.DOTALL).group(1)
    colours = {}
    for name, value in re.findall(r"--([a-z-]+): ([^;]+);", declared):
        is_hex = value.startswith("#")
        colours[name] = [int(value[i : i + 2], 16) for i in (1, 3, 5)] if is_hex else [int(v) for v in value.split()]
    assert contrast(colours["soft"], colours["paper"]) >= 4.5
    for side in ("for", "against"):
        assert contrast(colours[f"{side}-ink"], colours["paper"]) >= 4.5
        for step in range(11):
            assert contrast(colours["ink"], blend(colours["paper"], colours[side], step / 10)) >= 4.5
            assert contrast(colours["soft"], blend(colours["paper"], colours[side], 0.35 * step / 10)) >= 4  # special


def test_hidden_special_tokens_are_stated():
    output = squeezed(plain(review(), hide_special=True))
    assert "[CLS]" not in output
    assert "special tokens (hidden) +0.12" in output
    assert "= logit +1.16" in output


def test_markup_is_literal():
    text = "[bold]no[/] [/] [link=http://x]y[/link] :smile:"
    explanation = make(text, text.split(), [1.0] * 4, target_label="[red]label[/red]")
    for output in (plain(explanation), without_escapes(coloured(explanation))):
        for word in ("[bold]", "[/]", "[link=http://x]", ":smile:", "[red]label[/red]"):
            assert word in squeezed(re.sub(r"\[\+\d\.\d\d\]", "", output))


def test_control_characters_do_not_reach_the_terminal():
    explanation = make("a\x1b]0;title\x07 b", ["a\x1b]0;title\x07", "b"], [1.0, 2.0], target_label="\x1b[2J")
    assert "\x1b" not in plain(explanation)
    assert "␛]0;title␇" in without_escapes(coloured(explanation))


def test_target_foil_and_prediction():
    head = plain(review(foil=0, foil_label="negative")).splitlines()
    assert head[0].startswith(
        "target positive  rather than negative  predicted positive  probability of positive 0.875"
    )
    assert "logit difference +1.16" in head[0]
    assert head[-1] == "Σ contributions +1.16 = logit difference +1.16 (residual 1e-7)"
    assert plain(pair()).startswith("target same  predicted other  probability 0.200  logit -0.50")
    assert plain(review(probability=None)).startswith("predicted positive  logit +1.16")
    assert "probability >0.999" in plain(review(probability=0.99999))
    assert "probability <0.001" in plain(review(probability=1e-9))


def test_position_is_named():
    assert "at token 3 ping" in plain(review(position=3))


def test_pairs_show_both_texts():
    lines = plain(pair()).splitlines()
    assert lines[lines.index("text 1") + 1] == "<s>[0.00] Up[+1.00] </s>[+0.50]"
    assert lines[lines.index("text 2") + 1] == "Down[-2.00] </s>[0.00]"


def test_parts_are_summed():
    parts = {"word": [0.1] * 8, "token_type": [-0.05] * 8}
    assert "by source: word +0.80, token type -0.40" in plain(review(parts=parts))


def test_inexact_explanations_say_so():
    output = plain(review(logit=5.0))
    assert "≠ logit +5.00 (residual +3.84)" in output
    assert "do not sum to the logit" in output
    assert "do not sum to the logit" in render_html(review(logit=5.0))
    assert "do not sum to the logit" not in plain(review()) + render_html(review())


@pytest.mark.parametrize(
    "explanation", [empty(), make("a", ["a"], [0.0]), make(" ", [" "], [1.0])], ids=["empty", "zero", "space"]
)
@pytest.mark.parametrize("words", [True, False])
def test_edges_are_shown_everywhere(explanation, words):
    assert "Σ contributions" in plain(explanation, words=words)
    assert "Σ contributions" in without_escapes(coloured(explanation, words=words))
    assert "Σ contributions" in render_html(explanation, words=words)


def test_ascii_consoles_do_not_crash():
    output = plain(make("café 中", ["café", "中"], [1.0, -0.5]), encoding="ascii")
    assert r"caf\xe9[+1.00] \u4e2d[-0.50]" in output
    assert "Sum of contributions +0.50 = logit +0.50" in output
    assert "|############" in output


def test_narrow_terminals_lose_nothing():
    output = plain(review(), width=30)
    assert max(map(len, output.splitlines())) <= 30
    assert "gripping[+2.00]" in output
    table = [line.split() for line in output.splitlines()]
    assert ["gripping", "+2.00"] in table, "the words of the table, for which bars leave no place"
    assert ["gripping", "+2.00"] not in [line.split() for line in plain(review(), width=60).splitlines()]


def test_show_method_and_default_console(capsys):
    review().show(width=100)
    assert "gripping[+2.00]" in capsys.readouterr().out


def test_svg(tmp_path):
    path = tmp_path / "one.svg"
    svg = export_svg(review(), path)
    assert path.read_text(encoding="utf-8") == svg == export_svg(review())
    assert svg.startswith("<svg")
    assert "gripping" in svg
    assert "url(http" not in svg
    assert "@font-face" not in svg


def test_svg_escapes():
    assert "<script" not in export_svg(make(HOSTILE, HOSTILE.split(), [1.0] * len(HOSTILE.split())), title="<script>")
