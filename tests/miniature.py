"""The smallest experiment that learns: drawn people by the dozen, a trunk of 0.4 M parameters."""

MINIATURE = {
    "sources": ["synthetic=snow", "synthetic=subway"],
    "synthetic.train_people": 8,
    "synthetic.test_people": 4,
    "synthetic.cameras": 2,
    "synthetic.crops": 2,
    "trunk.name": "test_resnet",
    "trunk.weights": "none",
    "loading.height": 64,
    "loading.width": 32,
    "sampling.identities": 3,
    "sampling.crops": 2,
    "epochs": 3,
    "steps_per_epoch": 2,
}
