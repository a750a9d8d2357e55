"""Curves of a training as CSV files."""

from pathlib import Path

from pytorch_lightning.loggers import CSVLogger

from ifguide.workspace import global_rank


class CurveFiles(CSVLogger):
    """Lightning's `metrics.csv`, beside which that of an interrupted attempt in the same folder is kept as
    `metrics-1.csv`, `metrics-2.csv`, …: Lightning would delete it.

    Args:
        name: the training, and its folder.
        save_dir: the run's folder.
        version: of Lightning's, a further folder; empty: none.
    """

    def __init__(self, name: str, save_dir: str, version: str = "") -> None:
        super().__init__(save_dir=save_dir, name=name, version=version)
        curves = Path(self.log_dir) / "metrics.csv"
        if global_rank() == 0 and curves.is_file():
            number = 1 + len(list(curves.parent.glob("metrics-*.csv")))
            curves.rename(curves.with_name(f"metrics-{number}.csv"))
