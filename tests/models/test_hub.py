"""Model cards, the stub for `trust_remote_code`, and pushing.

Pushing runs the real huggingface_hub, in processes of their own, against a local stand-in for the hub's HTTP API
(fake_hub.py), and models are loaded back from there.
"""

import json
import os
import textwrap

import pytest
from helpers import tiny
from helpers.fake_hub import FakeHub
from helpers.hub_process import BY_HAND, PREPARE, card_of, converted, front, run

from bcos_peft import BcosConfig
from bcos_peft.models.card import _base_licence


# ---- The card -------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_model_is_and_how_to_load_it(tmp_path):
    config = BcosConfig(b=1.5, b_pattern={r"layer\.0\..*": 1.1})
    model = converted(config=config, base="google-bert/bert-base-uncased", verify=True)
    model.add_model_tags(["reviews"])
    model.save_pretrained(tmp_path / "my-model")
    data, body = card_of(tmp_path / "my-model")
    assert data == {
        "base_model": "google-bert/bert-base-uncased",
        "library_name": "transformers",
        "license": "unknown",
        "pipeline_tag": "text-classification",
        "tags": ["bcos", "bcos-peft", "interpretability", "reviews"],
    }
    assert "# my-model\n" in body
    assert "[google-bert/bert-base-uncased](https://huggingface.co/google-bert/bert-base-uncased)" in body
    assert "Licence of the base model: unknown" in body
    assert f"Residual: {model.bcos_config.probe_residual:.1e} " in body
    assert "B: 1.5, with exceptions" in body
    assert "pip install bcos-peft" in body
    settings = json.loads(body.split("```json\n")[1].split("```")[0])
    assert settings["b"] == 1.5
    assert settings["b_pattern"] == [[r"layer\.0\..*", 1.1]]
    assert converted().model_tags == ["bcos", "bcos-peft", "interpretability"], "tags of one model are not another's"


@pytest.mark.slow
def test_the_code_in_the_card_runs(tmp_path):
    converted().save_pretrained(tmp_path / "my-model")
    tiny.tokenizer().save_pretrained(tmp_path / "my-model")
    _, body = card_of(tmp_path / "my-model")
    code = body.split("```python\n")[1].split("```")[0]
    assert "gripping" in run(code, tmp_path)


@pytest.mark.parametrize(
    ("task", "tag", "auto"),
    [
        ("TokenClassification", "token-classification", "AutoModelForTokenClassification"),
        ("QuestionAnswering", "question-answering", "AutoModelForQuestionAnswering"),
        ("MaskedLM", "fill-mask", "AutoModelForMaskedLM"),
    ],
)
def test_the_card_knows_the_task(task, tag, auto, tmp_path):
    converted(task).save_pretrained(tmp_path)
    data, body = card_of(tmp_path)
    assert data["pipeline_tag"] == tag
    assert f"model = {auto}.from_pretrained(" in body


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Base\n", {"license": "apache-2.0"}),
        (
            "---\nlicense: other\nlicense_name: my-licence\nlicense_link: https://example.org/licence\n---\n",
            {"license": "other", "license_name": "my-licence", "license_link": "https://example.org/licence"},
        ),
        ("---\nlanguage: en\n---\n", {}),
        ("---\nlicense: [unclosed\n---\n", {}),
        ("# No metadata\n", {}),
        (None, {}),
    ],
)
def test_the_licence_of_a_local_base_model_is_carried_over(front, licence, tmp_path):
    base = tmp_path / "some" / "base"
    base.mkdir(parents=True)
    if front is not None:
        (base / "README.md").write_text(front)
    converted(base=base).save_pretrained(tmp_path / "model")
    data, body = card_of(tmp_path / "model")
    assert {key: value for key, value in data.items() if "license" in key} == (licence or {"license": "unknown"})
    assert "base_model" not in data, "the hub refuses a path"
    assert str(tmp_path) not in body
    assert "`base` (a local directory)" in body


def test_without_network_the_licence_of_a_hub_model_is_unknown():
    assert _base_licence("someone/model", online=True) == {}
    assert _base_licence("someone/model", online=False) == {}
    assert _base_licence("not a repository / at all", online=True) == {}


def test_a_card_written_by_hand_stays(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path)
    model.set_b(2.0)
    model.save_pretrained(tmp_path)
    assert "B: 2" in card_of(tmp_path)[1], "its own card is brought up to date"
    (tmp_path / "README.md").write_text(BY_HAND)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == BY_HAND


# ---- The stub -------------------------------------------------------------------------------------------------------


def auto_map(directory):
    return json.loads((directory / "config.json").read_text()).get("auto_map")


def test_the_stub_is_written_on_request_and_the_choice_stays_with_the_model(tmp_path):
    model = converted()
    model.save_pretrained(tmp_path / "one")
    assert auto_map(tmp_path / "one") is None
    model.save_pretrained(tmp_path / "two", remote_code=True)
    expected = {
        "AutoConfig": "modeling_bcos.BcosBertConfig",
        "AutoModelForSequenceClassification": "modeling_bcos.BcosBertForSequenceClassification",
    }
    assert auto_map(tmp_path / "two") == expected
    back = type(model).from_pretrained(tmp_path / "two")
    back.save_pretrained(tmp_path / "three")
    model.save_pretrained(tmp_path / "four")
    for name in ("three", "four"):
        assert auto_map(tmp_path / name) == expected
        assert (tmp_path / name / "modeling_bcos.py").exists()
    back.save_pretrained(tmp_path / "five", remote_code=False)
    assert auto_map(tmp_path / "five") is None
    assert not (tmp_path / "five" / "modeling_bcos.py").exists()


# One process that never imported the package: what four ways of loading print, a line each.
ATTEMPTS = """
    import sys
    from transformers import AutoModelForSequenceClassification as Auto
    def attempt(**options):
        try:
            result = type(Auto.from_pretrained({name!r}, **options)).__name__
        except Exception as error:
            result = type(error).__name__ + " " + " ".join(str(error).split())
        print("\\n->", result)  # transformers asks on stdout whether it may run the stub
    attempt()
    sys.modules["bcos_peft"] = None  # as if it were not installed
    attempt(trust_remote_code=True)
    del sys.modules["bcos_peft"]
    attempt(trust_remote_code=True)
    attempt()  # with the package imported, by the stub
"""


def attempts(printed):
    return [line.removeprefix("-> ") for line in printed.splitlines() if line.startswith("-> ")]


@pytest.mark.slow
def test_without_the_import_transformers_refuses_a_local_model(tmp_path):
    converted().save_pretrained(tmp_path / "model")
    results = attempts(run(ATTEMPTS.format(name="model"), tmp_path))
    assert len(results) == 4
    for result in results:
        assert "ValueError The checkpoint you are trying to load has model type `bcos_bert`" in result
        assert "does not recognize this architecture" in result


def assert_loads_if_trusted(results):
    untrusted, missing, trusted, imported = results
    assert untrusted.startswith("ValueError The repository ")
    assert "trust_remote_code=True" in untrusted
    assert missing == (
        "ImportError This is a B-cos model. Loading it needs the package bcos-peft: `pip install --upgrade bcos-peft`."
    )
    assert trusted == imported == "BcosBertForSequenceClassification"


@pytest.mark.slow
def test_the_stub_loads_the_package_if_it_is_trusted(tmp_path):
    converted().save_pretrained(tmp_path / "model", remote_code=True)
    code = ATTEMPTS.format(name="model") + "    Auto.from_pretrained('model').save_pretrained('again')\n"
    assert_loads_if_trusted(attempts(run(code, tmp_path, {"HF_HOME": str(tmp_path / "home")})))
    names = ["README.md", "config.json", "model.safetensors", "modeling_bcos.py"]
    assert sorted(os.listdir(tmp_path / "again")) == names
    for name in ("config.json", "modeling_bcos.py"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


# ---- Pushing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub():
    with FakeHub() as fake:
        fake.repos["someone/base"] = {"main": {"README.md": b"---\nlicense: mit\n---\n# Base\n"}}
        yield fake


@pytest.mark.slow
def test_push_to_hub(hub, tmp_path):
    code = """
        url = model.push_to_hub("me/model", private=True, tags=["reviews"])
        assert url.commit_message == "Upload model"
        check("me/model")
        model.push_to_hub("me/model", max_shard_size="20KB", commit_message="In shards")
        back = check("me/model")
        model.push_to_hub("me/model", revision="other")
        check("me/model", revision="other")
        pull = model.push_to_hub("me/model", create_pr=True)
        assert pull.pr_url
        back.save_pretrained("local")
        assert json.load(open("local/config.json"))["auto_map"]["AutoConfig"] == "modeling_bcos.BcosBertConfig"
    """
    run(PREPARE + textwrap.indent(textwrap.dedent(code), "    "), tmp_path, hub.environment(tmp_path / "home"))
    first, shards, other, pull = hub.commits
    assert hub.created[0]["repo"] == "me/model"
    assert "private" in json.dumps(hub.created[0])
    assert first["added"] == ["README.md", "config.json", "model.safetensors", "modeling_bcos.py"]
    assert first["message"] == "Upload model"
    assert not first["deleted"]
    assert shards["message"] == "In shards"
    assert shards["deleted"] == ["model.safetensors"]
    assert "model.safetensors.index.json" in shards["added"]
    assert other["branch"] == "other"
    assert set(other["deleted"]) == {
        name for name in shards["added"] if name.startswith("model") and "bcos" not in name
    }
    assert pull["branch"] == "refs/pr/1"
    card = hub.repos["me/model"]["main"]["README.md"]
    assert front(card)["license"] == "mit", "asked from the hub"
    assert front(card)["base_model"] == "someone/base"
    assert 'from_pretrained("me/model")' in card.decode()

    printed = run(ATTEMPTS.format(name="me/model"), tmp_path, hub.environment(tmp_path / "home2"))
    assert_loads_if_trusted(attempts(printed))


@pytest.mark.slow
def test_other_ways_of_pushing_and_cards_written_by_hand(hub, tmp_path):
    hub.repos["me/tagged"] = {"main": {"README.md": BY_HAND.encode()}}
    hub.repos["me/kept"] = {"main": {"README.md": BY_HAND.encode()}}
    (tmp_path / "with-card").mkdir()
    (tmp_path / "with-card" / "README.md").write_text(BY_HAND)
    code = """
        model.push_to_hub("me/kept")
        model.push_to_hub("me/tagged", tags=["reviews"])
        model.config.__dict__.pop("auto_map")
        model.save_pretrained("saved", push_to_hub=True, commit_message="Saved", token="hf_token")
        check("me/saved")
        model.save_pretrained("with-card", push_to_hub=True, repo_id="me/by-hand")

        model.save_pretrained("output", remote_code=True)
        data = [{"labels": 1, "input_ids": [5, 6]}] * 4
        arguments = TrainingArguments("output", max_steps=1, report_to="none", use_cpu=True, hub_model_id="me/trained")
        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.train()
        trainer.push_to_hub()
        check("me/trained")
    """
    run(PREPARE + textwrap.indent(textwrap.dedent(code), "    "), tmp_path, hub.environment(tmp_path / "home"))
    repos = {name: branches["main"] for name, branches in hub.repos.items()}
    assert repos["me/kept"]["README.md"].decode() == BY_HAND
    assert "config.json" in repos["me/kept"]
    assert front(repos["me/tagged"]["README.md"]) == {"license": "mit", "tags": ["mine", "reviews"]}
    assert "# Written by hand" in repos["me/tagged"]["README.md"].decode()
    assert repos["me/by-hand"]["README.md"].decode() == BY_HAND
    assert {"modeling_bcos.py", "model.safetensors", "README.md"} <= repos["me/saved"].keys()
    assert 'from_pretrained("saved")' in repos["me/saved"]["README.md"].decode()
    assert "modeling_bcos.py" in repos["me/trained"]
    assert "bcos-peft" in front(repos["me/trained"]["README.md"])["tags"]
    assert [commit["message"] for commit in hub.commits if commit["repo"] == "me/saved"] == ["Saved"]
