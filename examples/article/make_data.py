"""Write the data of five clients: ten features and a target that depends on them alike everywhere.

The features of each client lie around a place of its own, so no client sees what all see together.
"""

from pathlib import Path

import numpy as np

SEED = 20
CLIENTS = 5
EXAMPLES = 240
FEATURES = 10
NOISE = 0.3


def main(folder: Path) -> None:
    rng = np.random.default_rng(SEED)
    weights = rng.normal(0.0, 1.0, FEATURES)
    header = ",".join([*(f"x{i}" for i in range(1, FEATURES + 1)), "y"])
    folder.mkdir(exist_ok=True)
    for number in range(1, CLIENTS + 1):
        centre = rng.normal(0.0, 0.3, FEATURES)
        x = rng.normal(centre, 1.0, (EXAMPLES, FEATURES))
        y = x @ weights + 1.0 + rng.normal(0.0, NOISE, EXAMPLES)
        rows = [",".join(f"{value:.3f}" for value in row) for row in np.column_stack([x, y])]
        text = "\n".join([header, *rows]) + "\n"
        (folder / f"client-{number}.csv").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parent / "data")
