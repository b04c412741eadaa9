"""The whole method in one file: a BERT classifier becomes a B-cos model, is trained, and explains itself exactly.

A B-cos model is a linear map of its input, made anew for every input: logits(x) = W(x)·x. Two things make it so:
nothing adds a constant (biases go), and every layer is linear but for a factor that depends on its input. With the
factors held constant, the gradient of a logit is its row of W(x). Gradient times input, summed over the features of
each token, is what the token contributes, and the contributions sum to the logit.

    python examples/minimal.py    # a few seconds on a CPU; nothing is downloaded

Sources, cited as [1] and [2]: B-cos networks, arXiv 2205.10268; B-cos LM, arXiv 2502.12992. The package does the same
for many architectures; tests/test_minimal.py compares the two layer by layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification
from transformers.activations import GELUActivation


TINY = 1e-12  # so that zeros give zeros, and no infinite gradients

# 1. Layers that are linear but for a factor ([1], section 3; [2], section 3)


class Dynamic:
    """A layer with a factor that depends on its input, held constant in evaluation mode (the package has a mode of
    its own for that, `explanation_mode`). Outputs are the same; only gradients differ."""

    def hold(self, factor: Tensor) -> Tensor:
        return factor if self.training else factor.detach()


class BcosLinear(Dynamic, nn.Linear):
    """The B-cos transform ([1], equations 3 and 4), (..., in) to (..., out), with weights as they are; [1] divides
    each row by its norm. An output whose row does not point where x points is damped: a large one needs alignment."""

    def forward(self, x: Tensor) -> Tensor:
        o = F.linear(x, self.weight)  # o_i = w_i·x
        norms = x.norm(dim=-1, keepdim=True) * self.weight.norm(dim=-1)  # ‖x‖ ‖w_i‖
        cos = o.abs() / norms.clamp_min(TINY)  # |cos(x, w_i)|
        return self.hold(cos.clamp_min(TINY) ** (self.b - 1)) * o  # y_i = |cos(x, w_i)|^(B-1) · w_i·x


class HeldLinear(Dynamic, nn.Linear):
    """Query and key, (..., hidden) to (..., hidden), held as a whole ([2], section 3): attention is A·v, linear in v
    once A is held, and A = softmax(q·kᵀ/√d) is held where q and k are."""

    def forward(self, x: Tensor) -> Tensor:
        return self.hold(F.linear(x, self.weight))  # q = W_q·x, k = W_k·x


class DynamicLayerNorm(Dynamic, nn.LayerNorm):
    """Layer norm over (..., hidden), with 1/σ held ([2], section 3); subtracting the mean is linear already."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, correction=0, keepdim=True)
        return self.weight * (x - mean) * self.hold((variance + self.eps).rsqrt())  # γ · (x - mean) / σ


class DynamicGELU(Dynamic, GELUActivation):
    """GELU, elementwise, with g(x) held ([2], section 3): g is the normal distribution function."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.hold((1 + torch.erf(x / 2**0.5)) / 2)  # x · g(x)


# 2. Conversion, in place ([2], section 3): parameters keep their names and values

BY_CLASS = {nn.Linear: BcosLinear, nn.LayerNorm: DynamicLayerNorm, GELUActivation: DynamicGELU}
BY_NAME = {"query": HeldLinear, "key": HeldLinear, "value": nn.Linear}  # these stay plain linear layers


def convert(model: BertForSequenceClassification, b: float) -> BertForSequenceClassification:
    """Take the biases away, give layers their new classes, and the B-cos layers their B; drop the pooler's tanh."""
    for name, module in model.named_modules():
        module.__class__ = BY_NAME.get(name.split(".")[-1]) or BY_CLASS.get(type(module), type(module))
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.bias = None  # a constant, which would belong to no token
        if isinstance(module, BcosLinear):
            module.b = b
    model.bert.pooler.activation = nn.Identity()  # in the place of tanh
    return model


# 3. Training, with all gradients ([1], section 3; [2], section 3)


def bce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy on one-hot labels: (batch, classes), (batch,) to (). It asks for large logits."""
    return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[-1]).to(logits))


def train(model: BertForSequenceClassification, ids: Tensor, mask: Tensor, labels: Tensor, steps: int) -> list[float]:
    """Steps on one batch, of (batch, tokens), (batch, tokens) and (batch,); the loss before each of them."""
    model.train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=2e-3), []
    for _ in range(steps):
        loss = bce_loss(model(ids, mask).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# 4. Explanation, with every factor held ([1], equation 13; [2], section 3)


def explain(model: BertForSequenceClassification, ids: Tensor, mask: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """What each token contributes to the target's logit, (batch, tokens), and the logit, (batch,)."""
    model.eval()
    embeddings = model.bert.embeddings  # words + positions + token types, normed: what enters the first block
    x = embeddings(ids).detach().requires_grad_()  # (batch, tokens, hidden)
    with embeddings.register_forward_hook(lambda *_: x):
        logit = model(ids, mask).logits[:, target]
    (w,) = torch.autograd.grad(logit.sum(), x)  # the target's row of W(x): (batch, tokens, hidden)
    return (w * x).sum(dim=-1).detach(), logit.detach()  # c_t = w_t·x_t, and Σ c_t = logit


# 5. All of it, on sentences made up for the purpose

POSITIVE = ["a gripping film", "a wonderful story", "the cast was brilliant", "what a brilliant and gripping story"]
NEGATIVE = ["a dull film", "a tedious story", "the cast was awful", "what an awful and tedious film"]
WORDS = ["[PAD]", "[CLS]", "[SEP]", *sorted({word for text in POSITIVE + NEGATIVE for word in text.split()})]


def encode(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, padded on the right: (batch, tokens) each."""
    rows = [torch.tensor([WORDS.index(word) for word in f"[CLS] {text} [SEP]".split()]) for text in texts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, (ids != 0).long()


if __name__ == "__main__":
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = convert(BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), **sizes)), b=1.25)
    losses = train(model, *encode(POSITIVE + NEGATIVE), labels=torch.tensor([1] * 4 + [0] * 4), steps=40)
    print(f"loss {losses[0]:.3f} before, {losses[-1]:.3f} after {len(losses)} steps\n")
    ids, mask = encode(["the story was dull", "a wonderful film and what a brilliant cast"])
    for row, scores, logit in zip(ids, *explain(model, ids, mask, target=1), strict=True):
        for word, score in zip(row[row != 0], scores, strict=False):
            print(f"{WORDS[word]:>12} {score:+.3f} {'█' * round(4 * abs(score.item()))}")
        residual = (logit - scores.sum()).abs()
        print(f"Σ contributions {scores.sum():+.6f} = logit {logit:+.6f}, residual {residual:.1e}\n")
        assert residual <= 1e-5 * scores.abs().sum(), "contributions must sum to the logit"
