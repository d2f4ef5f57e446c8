"""process: raw data to features, split into the part to learn from and the part that only judges.

The split has a number of its own, not the seed: the model that serves is judged on the same rows as the new one, and
a new seed would judge it by rows that it has learned from. Nothing is fitted here: what is learned from data (the
scaler, too) belongs to train, which sees the training part only.
"""

import numpy as np
from sklearn.model_selection import train_test_split

from digits.paths import directory, settings

SPLIT = 7


def main() -> None:
    _, params = settings()
    table = np.loadtxt(directory("DATA_DIR") / "digits.csv", delimiter=",", skiprows=1, dtype=np.float32)
    x, y = table[:, :-1], table[:, -1].astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=params["test_share"], random_state=SPLIT, stratify=y
    )
    np.savez(directory("FEATURES_DIR") / "train.npz", X=train_x, y=train_y)
    np.savez(directory("FEATURES_DIR") / "test.npz", X=test_x, y=test_y)
    print(f"{len(train_y)} pictures to learn from, {len(test_y)} to judge by")


if __name__ == "__main__":
    main()
