"""What two processes do together is what one does: factors, gradients, losses, generations, classifiers."""

import numpy as np
import pytest
import torch
from kronfluence import Analyzer, FactorArguments, prepare_model
from tiny import VOCABULARY, tiny_model
from two_processes import in_two_processes

from ifguide.classifiers.base import SharedClassifier
from ifguide.corpus.queries import EncodedQuery
from ifguide.decoding.generation import sample_continuations
from ifguide.decoding.nucleus import Nucleus
from ifguide.evaluation.likelihood import continuation_likelihoods
from ifguide.influence.curvature import Curvature
from ifguide.influence.diagnostics import predicted_losses, split_half_correlation
from ifguide.influence.direction import precondition_direction, query_gradient
from ifguide.influence.factors import CurvatureError, by_layer
from ifguide.influence.kronfluence_factors import Blocks, LanguageModelingTask
from ifguide.models import tracked_layers
from ifguide.processes import ALONE, Processes

STRATEGIES = ("ekfac", "kfac", "diagonal", "sequence_kronecker", "eshampoo")
ARCHITECTURES = ("gpt_neox", "gpt2")


class Lengths:
    """A classifier: the longer, the more toxic; in which process it read how many texts is noted."""

    name, read = "lengths", 0

    def __call__(self, texts):
        self.read += len(texts)
        return {"toxicity": np.array([1 - 1 / (1 + len(text)) for text in texts])}


def ids(rows, length, seed=1):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed)).numpy()


def queries():
    lengths = np.random.default_rng(0).integers(3, 9, 7).tolist()
    return [EncodedQuery(ids(1, n, seed=n)[0], np.arange(n) > 1, bool(i % 2)) for i, n in enumerate(lengths)]


def fitted(processes, strategy, architecture, blocks=11):
    return Curvature(strategy=strategy).fit(
        tiny_model(architecture), ids(blocks, 9), batch_size=3, seed=3, progress=False, processes=processes
    )


def everything(processes):
    """All that is compared, in one go: starting processes takes longer than what they do."""
    found = {
        f"{strategy} {name}": fitted(processes, strategy, name) for strategy in STRATEGIES for name in ARCHITECTURES
    }
    found["fewer batches than processes"] = fitted(processes, "ekfac", "gpt_neox", blocks=2)
    model = tiny_model()
    gradient = query_gradient(model, queries(), batch_size=2, processes=processes)
    found["gradient"] = gradient
    found["one batch"] = query_gradient(model, queries(), batch_size=64, processes=processes)
    found["losses"] = predicted_losses(model, ids(7, 9), batch_size=2, processes=processes)
    other = {name: value.flip(0) for name, value in gradient.items()}
    found["correlation"] = split_half_correlation(
        model, [gradient, other], ids(7, 9), batch_size=2, processes=processes
    )
    model = tiny_model()  # the weights of the other one are rounded now
    found["likelihoods"] = vars(
        continuation_likelihoods(model, queries(), batch_size=2, description="", processes=processes)
    )
    prompts = [list(ids(1, 2 + n % 3, seed=n)[0]) for n in range(7)]
    found["generations"] = sample_continuations(
        model, prompts, decoder=Nucleus(), samples=3, max_new_tokens=6, end_of_text=0, rows=6, seed=5,
        processes=processes,
    )  # fmt: skip
    lengths = Lengths()
    shared = SharedClassifier(lengths, processes)
    found["classified"] = shared([" " * n for n in range(5)])["toxicity"]
    found["one text"] = shared(["a"])["toxicity"]
    found["texts read"] = lengths.read
    return found


@pytest.fixture(scope="module")
def alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the two have: sums of several threads have another order
    yield everything(ALONE)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def together():
    return in_two_processes(everything)


def test_both_processes_find_the_same(together):
    ours, theirs = together
    for name in ours:
        if name != "texts read":
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_factors_are_those_of_one_process(alone, together, strategy, architecture):
    """Eigenvectors of eigenvalues that are nearly equal may differ: what is done with them is compared."""
    one, two = (by_layer(found[f"{strategy} {architecture}"]) for found in (alone, together[0]))
    model, curvature = tiny_model(architecture), Curvature(strategy=strategy, damping=0.1)
    gradient = query_gradient(model, queries(), batch_size=8)
    ours, theirs = (precondition_direction(model, gradient, factors, curvature) for factors in (one, two))
    assert one.keys() == two.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))
    for layer, parts in one.items():
        torch.testing.assert_close(curvature.delta(two[layer]), curvature.delta(parts), rtol=1e-5, atol=0)


def test_a_process_without_a_batch_adds_nothing(alone, together):
    one, two = (found["fewer batches than processes"] for found in (alone, together[0]))
    assert all(torch.equal(one[name], value) for name, value in two.items()) and one.keys() == two.keys()


def test_sums_are_those_of_one_process(alone, together):
    for name in ("gradient", "one batch"):
        torch.testing.assert_close(together[0][name], alone[name], rtol=1e-10, atol=1e-12)
    assert together[0]["correlation"] == pytest.approx(alone["correlation"], abs=1e-9)


@pytest.mark.parametrize("name", ["losses", "likelihoods", "generations", "classified", "one text"])
def test_what_is_computed_batch_by_batch_is_the_same_to_the_last_bit(alone, together, name):
    torch.testing.assert_close(together[0][name], alone[name], rtol=0, atol=0)


def test_each_process_reads_its_share_of_the_texts(together):
    assert [found["texts read"] for found in together] == [3 + 1, 2 + 1]


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal"])
def test_factors_are_those_of_kronfluence(tmp_path, strategy):
    """Its analyzer's, on all blocks and with the true next tokens."""
    model, blocks = tiny_model().float(), ids(11, 9)
    task = LanguageModelingTask(list(tracked_layers(model)))
    prepared = prepare_model(tiny_model().float(), task)
    analyzer = Analyzer("reference", prepared, task, cpu=True, output_dir=str(tmp_path),
                        disable_tqdm=True)  # fmt: skip
    analyzer.fit_all_factors(
        "reference", Blocks(blocks), per_device_batch_size=3,
        factor_args=FactorArguments(strategy=strategy, use_empirical_fisher=True),
    )  # fmt: skip
    expected = analyzer.load_all_factors("reference")
    found = Curvature(strategy=strategy, empirical_fisher=True).fit(model, blocks, batch_size=3, seed=0, progress=False)
    for key, value in found.items():
        layer, _, factor = key.rpartition("/")
        assert torch.equal(value, expected[factor][layer]), key


def refuse(processes):
    """The second process runs into something that the first does not."""
    messages = []
    for error in (CurvatureError("no eigendecomposition") if processes.rank else None, None):
        try:
            processes.agree(error)
        except CurvatureError as failure:
            messages.append(str(failure))
    return messages, processes.sums({f"of {processes.rank}": torch.ones(2, dtype=torch.float32)})


def test_an_error_of_one_process_is_raised_in_all():
    for messages, sums in in_two_processes(refuse):
        assert messages == ["no eigendecomposition"]
        assert {name: value.tolist() for name, value in sums.items()} == {"of 0": [1, 1], "of 1": [1, 1]}


def test_one_process_is_a_share_of_itself():
    tensors = {"a": torch.ones(1)}
    assert ALONE.is_first and list(ALONE.share([1, 2, 3])) == [1, 2, 3] and ALONE.gather(1) == [1]
    assert ALONE.sums(tensors)["a"] is tensors["a"] and Processes(1, 2).no_bar and ALONE.no_bar is None
