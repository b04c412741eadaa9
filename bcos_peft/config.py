"""`BcosConfig`: what `get_bcos_model` is asked to do. It knows no layers and no models."""

from __future__ import annotations

import json
import os
from dataclasses import InitVar, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from bcos_peft._utils.checks import valid_b, valid_count, valid_for_peft, valid_modules, valid_regex, valid_simple
from bcos_peft._utils.config_files import CONFIG_NAME, stored_values
from bcos_peft._utils.files import write_text
from bcos_peft._utils.patterns import matches_pattern


@dataclass
class BcosConfig:
    r"""How a model is converted into a B-cos model.

    Args:
        b (`float`, defaults to 1.25):
            The exponent B of `y = |cos(x, w)|^(B-1) · w·x`, at least 1. Larger values align the weights more with the
            input, hence sharper explanations, and move the model further from the one it was (B-cos LM, section 4).
        b_pattern (`dict[str, float]`, *optional*):
            Module name patterns to their own B, as `rank_pattern` in peft: a key is a regular expression that
            must match the end of the module's name. For example `{"classifier": 1.0, r"layer\.0\..*": 1.1}`; the first
            match wins.
        normalize_weights (`bool`, defaults to `False`):
            Divide each weight row by its norm, as the paper does: the choice for fine-tuning after the conversion.
            `False` keeps the pre-trained weights as they are: with B = 1 the layer is then the plain one.
        target_modules (`list[str]` or `str`, *optional*):
            Which linear layers become B-cos layers, as in peft: a list of names (a module matches if its name is
            one of them or ends with `.name`) or one regular expression for whole names. Default: the table of the
            model's family, which leaves query, key, value and the LM head as plain bias-free layers. Layers that
            are not targets become plain bias-free layers, so the explanation stays exact.
        exclude_modules (`list[str]` or `str`, *optional*):
            Linear layers that stay plain, matched as `target_modules`; it wins over `target_modules`.
        convert_head (`bool`, defaults to `False`):
            Convert language-modelling heads too. Classification heads are always converted.
        align (`bool`, defaults to `True`):
            Whether layers get their B; `False` keeps every B-cos layer at B = 1, so that only the biases are removed:
            one of the two ingredients alone, for ablations.
        remove_bias (`bool`, defaults to `True`):
            Whether biases go; `False` keeps them: the other ingredient alone. A bias is a constant that belongs to no
            token, so this is refused unless the biases that the model has cannot reach a logit (those of query and
            key).
        pooler_activation (`str`, defaults to `"identity"`):
            What becomes of the tanh or ReLU in a pooler or classification head: `"identity"` drops it, as the
                paper does for encoders;
            `"dynamic"` keeps it, explained as `x · (tanh(x)/x)`.
        gates (`str`, defaults to `"split"`):
            How the product `act(gate(x)) · up(x)` of a gated MLP is explained (Llama, Gemma, ModernBERT, …):
                `"split"` gives each factor half of it, its Shapley value, so that words that open a gate are seen too;
                `"hold"` holds the gate constant, so that all of it is what `up` carries, which is a bit cheaper.
            Both are exact, and change nothing but explanations. Gates whose activation is not 0 at 0 are held in any
            case.
        calibration (`str`, *optional*, defaults to `"auto"`):
            How `get_bcos_model` fits the layers to the stock model's when it is given `calibration_data`:
                `"rows"` multiplies every row by a factor;
                `"ridge"` refits every linear layer, then the factors;
                `"auto"` chooses between them, and the strength of the ridge, layer by layer on texts held out, and
                    then refines the result.
            Without data it fits nothing, and `calibration_report` stays `None`.
        calibration_tokens (`int`, defaults to 16,384):
            How many tokens of `calibration_data` are read, at most.
        calibration_replay (`int`, defaults to 16,384):
            How many tokens the model is calibrated on beside the data, 0 for none. Causal language models write them
            themselves before the conversion, from random first tokens: that keeps abilities that the data says nothing
            about. Other models read variations of the data, with words in other places and random ones between them.
        calibration_epochs (`int`, *optional*):
            How often `"auto"` goes over the texts to refine what was fitted, by gradient; 0 for not at all. Causal
            language models learn corrections of low rank, of all layers together, towards what the stock model
            predicted: by default `8·(b − 1)²` times, rounded, and at most 8: not at all at B = 1.25, twice at 1.5.
            Other models' blocks are trained one by one, towards what the stock block gave: by default `12·(b − 1)`
            times, rounded, at least 4 and at most 12.
            Quantised layers are left as they are. Models for embeddings then learn as often, all layers together,
            from the embeddings that they made before.
        calibration_pooling (`str`, *optional*):
            Of a model without a head, how embeddings are made of its hidden states, so that calibration fits these
            too: `"mean"`, `"cls"` (the first token) or `"last"`. Default: the mean, or the last token of models that
            read from left to right; a `SentenceTransformer` has its own way. `"none"` fits hidden states alone.
        calibration_report (`dict`, *optional*):
            What calibration read and chose, and how far the model's predictions on texts held out are those of the
            original. Filled in by `get_bcos_model`.
        family (`dict`, *optional*):
            What was found out about an architecture without a table, so that loading need not look again. Filled in by
            `get_bcos_model`.
        base_model_name_or_path (`str`, *optional*):
            The model that was converted. Filled in by `get_bcos_model`.
        probe_residual (`float`, *optional*):
            The largest `|logit − Σ contributions| / Σ |contributions|` on the probe that `get_bcos_model` runs with
            `verify=True`. Filled in by `get_bcos_model`.
        bcos_version (`str`, *optional*):
            The version of this package that converted the model. Filled in by `get_bcos_model`.
        task_type (`str`, *optional*): For `peft.get_peft_model` alone, as the next two; no part of the conversion.
        modules_to_save (`list[str]`, *optional*): As in peft: modules that are trained whole, such as a head.
        inference_mode (`bool`, defaults to `False`): As in peft: whether nothing is trained.

    Raises:
        ValueError: a value that cannot be used; the message names the field, the value and what is possible.
        TypeError: a value of the wrong type.

    Example:
        >>> from bcos_peft import BcosConfig
        >>> config = BcosConfig(b=1.5, b_pattern={"classifier": 1.0})
        >>> BcosConfig.from_dict(config.to_dict()) == config
        True

    Source: B-cos LM (arXiv 2502.12992), sections 3 and 4; `gates`: the uniform rule for products of AttnLRP
    (arXiv 2402.05602), section 3.
    """

    b: float = 1.25
    b_pattern: dict[str, float] = field(default_factory=dict)
    normalize_weights: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    convert_head: bool = False
    align: bool = True
    remove_bias: bool = True
    pooler_activation: str = "identity"
    gates: str = "split"
    calibration: str | None = "auto"
    calibration_tokens: int = 16384
    calibration_replay: int = 16384
    calibration_epochs: int | None = None
    calibration_pooling: str | None = None
    calibration_report: dict[str, Any] | None = None
    family: dict[str, Any] | None = None
    base_model_name_or_path: str | None = None
    probe_residual: float | None = None
    bcos_version: str | None = None
    task_type: InitVar[str | None] = None
    modules_to_save: InitVar[list[str] | None] = None
    inference_mode: InitVar[bool] = False
    _method: ClassVar[type | None] = None  # the class for peft, which is also a `PeftConfig`, once peft is there

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls._method or cls if cls is BcosConfig else cls)

    def __post_init__(self, task_type=None, modules_to_save=None, inference_mode=False):
        self.__dict__.update(valid_for_peft(task_type, modules_to_save, inference_mode))
        self.b = valid_b("b", self.b)
        if self.b_pattern is None:
            self.b_pattern = {}
        if not isinstance(self.b_pattern, dict):
            raise TypeError(f"b_pattern must be a dict of regular expression to B, got {self.b_pattern!r}.")
        self.b_pattern = {
            valid_regex("b_pattern", key, as_part=True): valid_b(f"b_pattern[{key!r}]", value)
            for key, value in self.b_pattern.items()
        }
        for name in ("target_modules", "exclude_modules"):
            setattr(self, name, valid_modules(name, getattr(self, name)))
        valid_simple(vars(self))
        valid_count("calibration_tokens", self.calibration_tokens, least=1)
        valid_count("calibration_replay", self.calibration_replay)
        if self.calibration_epochs is not None:
            valid_count("calibration_epochs", self.calibration_epochs)
        if not self.align and (self.normalize_weights or not self.remove_bias):
            raise ValueError(
                "align=False removes the biases and changes nothing else; it cannot go with normalize_weights=True "
                "or remove_bias=False. Leave one of them out."
            )

    def __eq__(self, other):
        return asdict(self) == asdict(other) if isinstance(other, BcosConfig) else NotImplemented

    def b_for(self, name: str) -> float:
        """The B of the module called `name`: the first entry of `b_pattern` that matches the end of it, or `b`.

        Args:
            name (`str`): the module's name in the model.

        Returns:
            `float`: B; 1.0 for every module when `align` is False.

        Example:
            >>> from bcos_peft import BcosConfig
            >>> BcosConfig(b=1.5, b_pattern={"classifier": 1.0}).b_for("classifier")
            1.0
        """
        if not self.align:
            return 1.0
        for pattern, value in self.b_pattern.items():
            if matches_pattern(pattern, name):
                return value
        return self.b

    def epochs(self, language_model: bool) -> int:
        """How often calibration goes over the texts to refine what it fitted: `calibration_epochs`, or its default.

        Args:
            language_model (`bool`): whether the model is a causal language model.

        Example:
            >>> from bcos_peft import BcosConfig
            >>> [BcosConfig(b=b).epochs(language_model=True) for b in (1.1, 1.25, 1.5, 2)]
            [0, 0, 2, 8]
            >>> [BcosConfig(b=b).epochs(language_model=False) for b in (1.1, 1.25, 1.5, 2)]
            [4, 4, 6, 12]
        """
        if self.calibration_epochs is not None:
            return self.calibration_epochs
        # The larger B, the more there is to learn.
        if not language_model:
            return min(12, max(4, round(12 * (self.b - 1))))
        # At B = 1.25 a pass made nothing better on texts held out.
        return min(8, round(8 * (self.b - 1) ** 2))

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that JSON can hold and `from_dict` reads back.

        `b_pattern` becomes a list of pairs: transformers sorts the keys of a `config.json`, and the first match
        wins.
        """
        return asdict(self) | {"b_pattern": [list(pair) for pair in self.b_pattern.items()]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BcosConfig:
        """Build from a dict; unknown keys are refused, with the closest known name.

        Args:
            values (`dict`): as `to_dict` gives.

        Raises:
            ValueError: on a key that is not a field.
            TypeError: if `values` is not a dict.
        """
        if not isinstance(values, dict):
            raise TypeError(f"A BcosConfig is made from a dict, got {type(values).__name__}.")
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                close = get_close_matches(str(key), known, n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Known fields: {', '.join(known)}."
                raise ValueError(
                    f"BcosConfig has no field {key!r}. {hint} (A file from a newer bcos_peft may need an upgrade.)"
                )
        pairs = values.get("b_pattern")
        if isinstance(pairs, list):
            if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
                raise TypeError(f"b_pattern must be a dict or a list of pairs, [[pattern, B], ...], got {pairs!r}.")
            values = values | {"b_pattern": dict(pairs)}
        return cls(**values)

    def to_json_string(self) -> str:
        """The config as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Write `bcos_config.json` into a directory; the old file stays if writing fails.

        Args:
            save_directory (`str` or `os.PathLike`): made if it does not exist.

        Raises:
            ValueError: if the path is a file.
        """
        directory = Path(save_directory)
        if directory.is_file():
            raise ValueError(f"save_directory must be a directory, but {str(directory)!r} is a file.")
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / CONFIG_NAME, self.to_json_string())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **hub_kwargs) -> BcosConfig:
        """Read the config of a saved B-cos model, from a directory or the hub.

        Both `bcos_config.json` and the `"bcos"` entry of a model's `config.json` are understood.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): a directory, or a repository on the hub.
            **hub_kwargs: passed on to `huggingface_hub.hf_hub_download` (`revision`, `token`, `cache_dir`, ...).

        Raises:
            ValueError: if there is no config, or it is not valid JSON, or it is not that of a B-cos model, or it is
                not in the cache and the hub cannot be reached.

        Example:
            >>> import tempfile
            >>> from bcos_peft import BcosConfig
            >>> with tempfile.TemporaryDirectory() as directory:
            ...     BcosConfig(b=1.1).save_pretrained(directory)
            ...     BcosConfig.from_pretrained(directory).b
            1.1
        """
        return cls.from_dict(stored_values(str(pretrained_model_name_or_path), hub_kwargs))
