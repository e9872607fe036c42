"""Shows what `make demo` found: the size of each cluster of e-mails, and how much of it is spam."""

import collections
import csv
import glob
import json
import sys


def table(predictions: list[tuple[int, str]]) -> str:
    """The clusters, those with the most spam first.

    Args:
        predictions: (cluster_index, label) of each e-mail; label "1" is spam.
    """
    mails = collections.Counter(index for index, _ in predictions)
    spam = collections.Counter(index for index, label in predictions if label == "1")
    lines = ["cluster   e-mails   of them spam"]
    for index in sorted(mails, key=lambda i: (-spam[i] / mails[i], i)):
        share = spam[index] / mails[index]
        lines.append(f"{index:7d} {mails[index]:9,d} {share:14.0%}  {'#' * round(20 * share)}")
    right = sum(max(spam[i], mails[i] - spam[i]) for i in mails)
    lines.append(
        f"Naming each cluster by its majority is right for {right / len(predictions):.1%}."
    )
    return "\n".join(lines)


def main(folder: str) -> None:
    """Prints the model's summary and the table of the predictions in a folder."""
    with open(f"{folder}/model/model.json") as file:
        model = json.load(file)
    print(f"{folder}/model/model.json: inertia {model['inertia']:.6g}")
    found = []
    for path in sorted(glob.glob(f"{folder}/predictions-*.csv")):
        with open(path, newline="") as file:
            found += [(int(row["cluster_index"]), row["label"]) for row in csv.DictReader(file)]
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1])
