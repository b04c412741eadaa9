"""What explaining a span of an answer takes beside explaining one token: SmolLM2's size, 200 tokens after 800.

Run: python benchmarks/span.py [--quick] [--output benchmarks/results/span.json]

Weights are random: they do not change the time. Both read the same number of tokens. Hops go over the tokens between
the prompt and the span, which the model writes first: shares of tokens that it would not say stay where they are.
"""

from __future__ import annotations

import argparse

import torch
from measure import paired, ratios, report, timed
from transformers import LlamaConfig, LlamaForCausalLM

from bcos_peft import BcosConfig, get_bcos_model
from bcos_peft.attribution import attribute_sequence, attribute_span


SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--b", type=float, default=1.1, help="the exponent B (default: %(default)s)")
    parser.add_argument("--before", type=int, default=800, help="tokens before the span (default: %(default)s)")
    parser.add_argument("--span", type=int, default=200, help="tokens of the span (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=200, help="of those before, the prompt (default: %(default)s)")
    parser.add_argument("--hops", type=int, default=1, help="0 leaves hops out (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="pairs that are timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 pairs: a look, not a measurement")
    options = timed(parser, threads=1)
    if options.quick:
        options.rounds = 3
    return options


def measure(options: argparse.Namespace) -> dict[str, dict]:
    torch.manual_seed(0)
    model = get_bcos_model(LlamaForCausalLM(LlamaConfig(**SMOLLM2)), BcosConfig(b=options.b))
    model = model.eval().to(options.device)
    start, stop = options.before, options.before + options.span
    ids = torch.randint(5, SMOLLM2["vocab_size"], (stop,), device=options.device)

    if options.hops:
        given = ids[None, : options.prompt]
        new = {"max_new_tokens": stop - options.prompt, "min_new_tokens": stop - options.prompt, "do_sample": False}
        ids = model.generate(given, attention_mask=torch.ones_like(given), pad_token_id=0, **new)[0]

    def one_token():
        return attribute_sequence(model, ids[:-1], [stop - 2], [[int(ids[-1])]])

    ways = {"a span": lambda: attribute_span(model, ids, (start, stop))}
    if options.hops:
        ways[f"a span, hops={options.hops}"] = lambda: attribute_span(
            model, ids, (start, stop), hops=options.hops, answer_start=options.prompt
        )
    return {
        name: paired(one_token, run, options.rounds, int(not options.quick), options.device, options.clock)
        for name, run in ways.items()
    }


def main() -> None:
    options = arguments()
    title = f"Explaining {options.span} tokens after {options.before}, against explaining one token"
    report(options, measure, lambda found: ratios(title, ("one token", "span"), found, lambda ms: f"{ms / 1e3:.1f} s"))


if __name__ == "__main__":
    main()
