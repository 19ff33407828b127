"""Official files: names, published md5 checksums and addresses."""

from dataclasses import dataclass

__all__ = ["FILES", "OfficialFile"]


@dataclass(frozen=True)
class OfficialFile:
    """One published file; `unpacked_md5` belongs to the same file without its `.gz`."""

    name: str
    md5: str
    urls: tuple[str, ...]
    unpacked_md5: str | None = None


_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
_OMNIGLOT = (
    "https://github.com/brendenlake/omniglot/raw/master/python/",
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
)


def _at(mirrors: tuple[str, ...], name: str, md5: str, unpacked: str | None = None) -> OfficialFile:
    return OfficialFile(name, md5, tuple(mirror + name for mirror in mirrors), unpacked)


def _cifar(name: str, md5: str) -> tuple[OfficialFile, ...]:
    return (_at(_CIFAR, f"{name}.tar.gz", md5),)


# Images and labels of the train and of the test split.
X, Y = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
X2, Y2 = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

# By the folder that a user is told to put them in. The order is the loaders' order.
FILES: dict[str, tuple[OfficialFile, ...]] = {
    "mnist": (
        _at(_MNIST, X, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        _at(_MNIST, Y, "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        _at(_MNIST, X2, "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        _at(_MNIST, Y2, "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion-mnist": (
        _at(_FASHION, X, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        _at(_FASHION, Y, "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        _at(_FASHION, X2, "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        _at(_FASHION, Y2, "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
    "cifar-10-batches-bin": _cifar("cifar-10-binary", "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar-10-batches-py": _cifar("cifar-10-python", "c58f30108f718f92721af3b95e74349a"),
    "cifar-100-binary": _cifar("cifar-100-binary", "03b5dce01913d631647c71ecec9e9cb8"),
    "cifar-100-python": _cifar("cifar-100-python", "eb9058c3a382ffc7106e4002c42a8d85"),
    "omniglot": (
        _at(_OMNIGLOT, "images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        _at(_OMNIGLOT, "images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    ),
}  # fmt: skip
