"""ingest: write the raw data, one row a picture. Yours may query a database; these come with scikit-learn."""

import csv

from sklearn.datasets import load_digits

from digits.paths import directory


def main() -> None:
    pixels, labels = load_digits(return_X_y=True)
    with (directory("DATA_DIR") / "digits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([f"p{row}{column}" for row in range(8) for column in range(8)] + ["label"])
        writer.writerows([*map(int, picture), int(label)] for picture, label in zip(pixels, labels, strict=True))
    print(f"{len(labels)} pictures")


if __name__ == "__main__":
    main()
