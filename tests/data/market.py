"""A miniature in Market-1501's layout: people are colours."""

from pathlib import Path

from PIL import Image


def colour(identity: int, camera: int) -> tuple[int, int, int]:
    return 30 * identity, 200 - 20 * identity, 60 * camera


def make_market(root: Path) -> Path:
    """Write JPEG crops: four people to learn from, two to find, one distractor."""
    people = {"bounding_box_train": (1, 2, 3, 4), "query": (5, 6), "bounding_box_test": (0, 5, 6)}
    for folder, identities in people.items():
        (root / folder).mkdir(parents=True)
        for person in identities:
            for camera in (1,) if folder == "query" else (1, 2):
                for box in (0, 1):
                    name = f"{person:04}_c{camera}s1_{person:06}_{box:02}.jpg"
                    crop = Image.new("RGB", (30, 70), colour(person, camera))
                    crop.save(root / folder / name, quality=95)
    return root
