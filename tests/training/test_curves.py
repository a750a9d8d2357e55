"""Curves of a training that was interrupted and goes on in the same folder."""

from pathlib import Path

from ifguide.training.curves import CurveFiles


def test_the_curve_of_an_interrupted_attempt_stays(tmp_path):
    for attempt, steps in enumerate((range(3), range(2, 5), range(5, 6))):
        logger = CurveFiles("model", str(tmp_path))
        for step in steps:
            logger.log_metrics({"loss": 10.0 * attempt + step}, step)
        logger.save()
    found = {path.name: path.read_text().split() for path in Path(tmp_path / "model").glob("*.csv")}
    assert found == {
        "metrics-1.csv": ["loss,step", "0.0,0", "1.0,1", "2.0,2"],
        "metrics-2.csv": ["loss,step", "12.0,2", "13.0,3", "14.0,4"],
        "metrics.csv": ["loss,step", "25.0,5"],
    }
