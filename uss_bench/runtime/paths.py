"""Names of files and folders that several modules share."""

# In a run's folder; a model's folder inside it is named by `study.keys.ModelKey.folder`.
RUN = "run.json"
LOCK = "lock.json"
STATUS = "status"  # notes of the processes, by their ranks
ASKED_FOR = f"{STATUS}/strategies.json"  # by the command that began last
CACHE = "cache"  # beside the runs' folders, shared by all of them

# In a model's folder.
MODEL, CHECKPOINT, CURVE = "model.pt", "training.pt", "training.csv"
ASSESSMENT = "assessment"  # a stage's, that of the uncertainties

# In a report's folder.
REPORT = "report.md"
CASES, ANNOTATION, QUERIES, TRAINING, VOLUMES, TIMING = (
    f"results/{name}.csv" for name in ("cases", "annotation", "queries", "training", "volumes", "timing")
)
TESTS = "results/tests.csv"  # of the scores; written with the report, not read
PROVENANCE = "results/provenance.json"
SLICES = "results/slices.npz"
UNCERTAINTY = "results/uncertainty.csv.gz"  # the largest: a row per model that queried, and slice of the pool
CALIBRATION = "results/calibration.csv"

# In the folder of a report across seeds, beside the tables of its seeds in one.
SEEDS, COMPARISONS = "results/seeds.csv", "results/comparisons.csv"
