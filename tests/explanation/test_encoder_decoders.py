"""Encoder-decoders: what they write is explained by the source, and by the answer so far."""

import pytest
import torch
from helpers import tiny, untabled
from helpers.docs_env import build_tokenizer

from bcos_peft import BcosConfig, BcosExplainer, GenerationExplanation, get_bcos_model


pytestmark = pytest.mark.newest

SOURCE = "the film was good"


@pytest.fixture(scope="module", params=[True, False], ids=["converted", "stock"])
def explainer(request):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = build_tokenizer("bpe", ["the film was good and we saw it twice in a row"] * 5)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        num_layers=2,
        num_heads=4,
        d_kv=8,
        d_ff=64,
        decoder_start_token_id=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config).double().eval()
    return BcosExplainer(get_bcos_model(model, BcosConfig(b=1.25)) if request.param else model, tokenizer)


def test_what_it_writes_is_explained(explainer, tmp_path):
    found = explainer.generate(SOURCE, max_new_tokens=4)
    assert abs(found.residuals).max() < 1e-9
    assert found.text.startswith(SOURCE) or SOURCE in found.text
    sums = found.by_segment(whole=True)
    assert {"source", "rest"} <= sums.keys()
    assert sum(sums.values()) == pytest.approx(float(found.logits.sum()), abs=1e-9)
    written = explainer.bcos_model.generate(
        torch.tensor([explainer.tokenizer(SOURCE)["input_ids"]]), max_new_tokens=4, do_sample=False
    )
    assert found.token_ids[found.prompt_length :] == written[0, 1:].tolist()
    found.save(tmp_path / "found.json")
    assert GenerationExplanation.load(tmp_path / "found.json").by_segment(whole=True) == sums
    assert "source" in found.to_html()


def test_a_text_that_exists_is_explained_as_if_it_was_written(explainer):
    written = explainer.generate(SOURCE, max_new_tokens=3)
    answer = written.token_ids[written.prompt_length :]
    again = explainer.explain_generation(SOURCE, answer)
    assert again.scores == pytest.approx(written.scores, abs=1e-9)
    one = explainer.explain(SOURCE, target=answer[0], foil=written.foils[0])
    assert one.scores == pytest.approx(written.scores[0, : len(one.scores)], abs=1e-9)
    several = explainer.generate([SOURCE, "we saw it twice in a row"], max_new_tokens=3)
    assert several[0].scores == pytest.approx(written.scores, abs=1e-6)


def test_a_span_is_the_sum_of_its_tokens(explainer):
    whole = explainer.explain_generation(SOURCE, "we saw it twice in a row")
    for given in ((whole,), (SOURCE, "we saw it twice in a row")):
        found, expected = explainer.explain_span(*given, span=(3, 6)), whole.summed(3, 6)
        assert found.scores == pytest.approx(expected.scores, abs=1e-9)
        assert found.constants == pytest.approx(expected.constants, abs=1e-9)
        assert (found.tokens, found.target_ids, found.segments) == (
            expected.tokens,
            expected.target_ids,
            expected.segments,
        )
        passed = explainer.explain_span(*given, span=(3, 6), hops=2)
        assert passed.logit == pytest.approx(found.logit, abs=1e-9)
        assert abs(passed.residual) < 1e-9
        assert passed.scores[whole.prompt_length + 3 :] == pytest.approx(found.scores[whole.prompt_length + 3 :])


def test_stock_models_have_constants():
    tokenizer = tiny.tokenizer()
    explainer = BcosExplainer(tiny.model("bert", dtype=torch.float64), tokenizer)
    found = explainer(["a good film", "two hours"])
    for one in found:
        assert abs(one.residual) < 1e-9
        assert abs(one.constants) > 1e-6
        assert one.scores.sum() + one.constants == pytest.approx(one.logit, abs=1e-9)
        assert "constants" in one.to_html()
        assert one.by_segment({"words": (0, 3)})["constants"] == one.constants


@pytest.mark.parametrize("kind", ["Bart", "T5", "MBart", "MT5"])
def test_classifiers_of_encoder_decoders_are_explained(kind, capsys):
    import transformers

    tokenizer = tiny.tokenizer()
    sizes = untabled.MODELS["BartForConditionalGeneration" if "Bart" in kind else "T5ForConditionalGeneration"][1]
    sizes = sizes | {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id, "num_labels": 3}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), init_std=0.2, **sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).double().eval()
    explainer = BcosExplainer(get_bcos_model(model, BcosConfig(b=1.5)), tokenizer)
    for text in ("a good film", ("the film was good", "this is about a film")):
        one = explainer(text, target=1)
        assert abs(one.residual) < 1e-9
        assert one.scores.sum() + one.constants == pytest.approx(one.logit, abs=1e-9)
        one.show()
        assert "≠" not in capsys.readouterr().out


def test_classifiers_of_encoder_decoders_are_called():
    model = get_bcos_model(untabled.stock("BartForSequenceClassification"), BcosConfig(b=1.5))
    with pytest.raises(ValueError, match="needs a causal language model, or an encoder-decoder that writes"):
        BcosExplainer(model, tiny.tokenizer()).generate("a film")
