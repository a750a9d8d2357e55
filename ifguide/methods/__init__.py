"""Methods that are more than a loss on token blocks: a folder each, with its loss, its training and its decoder.

To add a rival, write one folder here, `methods/<name>/`, of what it needs of these:

- `loss.py`: pure functions of tensors, as in `ifguide.objectives`;
- `training.py`: a frozen dataclass of settings whose `train` writes or changes a model. A model that a decoder reads
  beside the one that generates is an `ifguide.training.auxiliary.Auxiliary`;
- `decoder.py`: a frozen dataclass that is an `ifguide.decoding.Decoding`.

`__init__.py` exports what a configuration names. Then give it an option in `conf/decoding` or `conf/post_training`, a
row in `conf/method`, and tests in `tests/methods/<name>/`. Nothing else has to know of it. (A method that is only
another loss on blocks is a file in `ifguide/objectives`.)
"""
