"""A language of three tokens and texts of four, small enough to be written down whole."""

import itertools

import torch

V, N = 3, 4  # vocabulary, tokens of a text


class Exact:
    """Conditional probabilities, a label in (0, 1) of every whole text, and the true R of every prefix, in float64."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        prefixes = [prefix for length in range(N) for prefix in itertools.product(range(V), repeat=length)]
        self.texts = list(itertools.product(range(V), repeat=N))
        self.p = {prefix: torch.rand(V, generator=generator, dtype=torch.float64).add(0.1) for prefix in prefixes}
        self.p = {prefix: values / values.sum() for prefix, values in self.p.items()}
        labels = torch.rand(len(self.texts), generator=generator, dtype=torch.float64).mul(0.98).add(0.01)
        self.labels = dict(zip(self.texts, labels.tolist(), strict=True))

    def probability(self, text, prefix=()):
        """Of a text behind a prefix of it."""
        found = 1.0
        for place in range(len(prefix), len(text)):
            found *= float(self.p[tuple(text[:place])][text[place]])
        return found

    def true_r(self, prefix):
        """The expectation of the label, by all texts that begin so."""
        return sum(
            self.probability(text, prefix) * self.labels[text] for text in self.texts if text[: len(prefix)] == prefix
        )

    def guidance(self, text):
        """Log-odds of the true R before each token of a text, [N, V]."""
        rows = [[self.true_r((*text[:place], v)) for v in range(V)] for place in range(N)]
        return torch.logit(torch.tensor(rows, dtype=torch.float64))

    def log_p(self, text):
        """[N, V]."""
        return torch.stack([self.p[tuple(text[:place])] for place in range(N)]).log()

    def batch(self):
        """Guidance, log p [texts, N, V], the texts [texts, N] and their labels."""
        guidance, log_p = (torch.stack([read(text) for text in self.texts]) for read in (self.guidance, self.log_p))
        return guidance, log_p, torch.tensor(self.texts), torch.tensor([self.labels[text] for text in self.texts])
