"""Work of the stages of influence: curvature, directions, scores."""

from ifguide.cost import kinds
from ifguide.cost.shape import FLOAT, ModelShape
from ifguide.cost.typical import planned_dtype
from ifguide.cost.work import PROCESS, Memory, Pass, Work
from ifguide.hardware import AUTO, BFLOAT16, FLOAT32
from ifguide.influence.chain import InfluenceSettings
from ifguide.influence.conjugate_gradients import ConjugateGradients
from ifguide.influence.curvature import Curvature
from ifguide.influence.factors import EIGENVECTORS, FACTORS, LAMBDA
from ifguide.influence.scorers import JVP, Scorer
from ifguide.influence.scoring import SAMPLE_TOKENS

BATCH, SHARD = "influence.batch_size", "influence.shard_blocks"
EIGEN = 25.0  # products' FLOPs that take as long as an eigendecomposition of n × n in float64, in n³
AT_ONCE = 64  # products that are timed together
DOUBLE = 2.0  # as long as a product in float32 takes one in float64


def multiplying(model: ModelShape, flops: float) -> Pass:
    """So many FLOPs of products of matrices that are about as large as a model's."""
    return Pass(kinds.products, model, AT_ONCE, 1, flops / kinds.products.flops(model, AT_ONCE, 1))


def fitting(
    model: ModelShape, curvature: Curvature, settings: InfluenceSettings, *, blocks: int, length: int, held_out: int
) -> Work:
    """Factors of the curvature, and the proxy's loss on held-out text.

    A pass over the blocks for covariances, with E[a aᵀ] and E[δ δᵀ] of each layer; and one for eigenvalues, with the
    gradient of each block, rotated. EK-FAC: Grosse et al., 2023, section 3.1.

    Args:
        model: the proxy.
        blocks, length: what is fitted on.
        held_out: blocks on which the loss is measured.
    """
    kept, tracked = FACTORS[curvature.strategy], model.tracked
    passes = [Pass(kinds.forward, model, settings.batch_size, length, held_out / settings.batch_size)]
    disk = 0.0
    products = 0.0  # of a block
    sides = float(sum(outputs**2 + inputs**2 for outputs, inputs in tracked))
    rotation = float(sum(2 * outputs * inputs * (outputs + inputs) for outputs, inputs in tracked))
    rotated = set(EIGENVECTORS) <= set(kept)
    if rotated:
        products += 2.0 * length * sides
        disk += FLOAT * sides
        eigen = EIGEN * sum(outputs**3 + inputs**3 for outputs, inputs in tracked)
        passes.append(multiplying(model, eigen))
    if set(LAMBDA) <= set(kept):
        products += 2.0 * length * model.tracked_parameters + (rotation if rotated else 0.0)
        disk += FLOAT * model.tracked_parameters
    times = rotated + (set(LAMBDA) <= set(kept))
    if times:
        rows = settings.batch_size
        passes += [
            Pass(kinds.gradient, model, rows, length, times * blocks / rows),
            multiplying(model, products * blocks),
        ]
    each = model.activations(length) + FLOAT * model.tracked_parameters
    fixed = PROCESS + 2 * FLOAT * model.parameters + 2 * disk
    return Work(tuple(passes), memory=Memory(fixed, each, settings.batch_size, BATCH), disk=disk, scratch=2 * disk)


def differentiating(
    model: ModelShape,
    curvature: Curvature,
    settings: InfluenceSettings,
    *,
    queries: int,
    tokens: float,
    block_length: int,
) -> Work:
    """The direction of queries, those of their two halves, and the scores of a sample along these.

    Args:
        queries, tokens: how many, and their tokens together.
        block_length: of the sample's blocks.
    """
    rows, length = settings.batch_size, max(2, min(block_length, round(tokens / max(queries, 1))))
    sample = max(1, SAMPLE_TOKENS // block_length)
    passes = [
        Pass(kinds.gradient, model, rows, length, 2 * queries / rows),
        Pass(kinds.forward, model, min(rows, sample), block_length, 4 * sample / min(rows, sample)),
    ]
    if set(EIGENVECTORS) <= set(FACTORS[curvature.strategy]):
        rotations = sum(4.0 * outputs * inputs * (outputs + inputs) for outputs, inputs in model.tracked)
        passes.append(multiplying(model, 3 * DOUBLE * rotations))
    factors = FLOAT * sum(outputs**2 + inputs**2 for outputs, inputs in model.tracked)
    direction = FLOAT * model.tracked_parameters
    fixed = PROCESS + 2 * FLOAT * model.parameters + factors + 3 * direction
    return Work(tuple(passes), memory=Memory(fixed, model.activations(length), rows, BATCH), disk=direction)


def refining(model: ModelShape, settings: ConjugateGradients, influence: InfluenceSettings, *, length: int) -> Work:
    """Conjugate gradients: a product with G before the first step and one in each, as scoring of the blocks and a
    gradient; layer by layer, as many as there are layers."""
    rows, products = influence.batch_size, settings.steps + 1
    if not settings.between_layers:
        products *= len(model.tracked)
    times = products * settings.blocks / rows
    direction = FLOAT * model.tracked_parameters
    factors = FLOAT * sum(outputs**2 + inputs**2 for outputs, inputs in model.tracked)
    fixed = PROCESS + 3 * FLOAT * model.parameters + factors + 8 * direction  # two models, vectors, gradients
    return Work(
        (
            Pass(kinds.Scoring(JVP(form=settings.form), 1), model, rows, length, times, "float32"),
            Pass(kinds.gradient, model, rows, length, times),
        ),
        memory=Memory(fixed, model.activations(length), rows, BATCH), disk=direction, scratch=3 * direction,
    )  # fmt: skip


def scoring(
    model: ModelShape, scorer: Scorer, settings: InfluenceSettings, *, directions: int, blocks: float, length: int
) -> Work:
    """Scores of blocks along directions; the shards are there beside the file that they are joined into."""
    kind = kinds.Scoring(scorer, directions)
    takes = settings.dtype != AUTO or BFLOAT16 in scorer.DTYPES
    dtype = planned_dtype(settings.dtype, model) if takes else FLOAT32
    rows, size = settings.batch_size, 2 if dtype == BFLOAT16 else 4
    states = 1 + directions
    # of one decoder block at a time, hidden states with their tangents; attention weights with theirs, unfused
    each = size * states * (length * (10 * model.width + 2 * model.inner) + 2 * model.heads * length**2)
    stored = FLOAT * directions * blocks * length
    return Work(
        (Pass(kind, model, rows, length, blocks / rows, dtype),),
        memory=Memory(PROCESS + size * (model.parameters + directions * model.tracked_parameters), each, rows, BATCH),
        disk=stored,
        scratch=stored,
    )
