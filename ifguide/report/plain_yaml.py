"""YAML as Hydra writes it."""

from typing import Any

import yaml


class WithoutAliases(yaml.SafeLoader):  # type: ignore[misc]
    """YAML without aliases, of which Hydra writes none: a few lines of them stand for more values than fit anywhere."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias {self.peek_event().start_mark}")
        return super().compose_node(parent, index)
