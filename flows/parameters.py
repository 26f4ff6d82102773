"""What the forms of the deployments ask for: types, limits and a line of help for each parameter of the flows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field as Key

RecipeName = Annotated[
    str, Key(min_length=1, description="A recipe that is shipped, such as hsc-sdss-gaia, or the path of a YAML file.")
]
RootUrl = Annotated[str, Key(min_length=1, description="Where all outputs go: a folder that every worker sees, or s3://...")]
ClusterName = Annotated[
    str,
    Key(
        pattern=r"^(local(:.+)?|(tcp|tls)://\S+:\d+|(slurm|kubernetes|gateway):.+)$",
        description="Where it runs: local, local:N, tcp://host:port, tls://host:port, or slurm:profile.yaml.",
    ),
]
Cells = Annotated[
    list[Annotated[int, Key(ge=0, lt=3072)]] | None,
    Key(description="Only these cells of the primary: HEALPix order 4, NESTED. None: all."),
]
Cone = Annotated[
    tuple[float, float, float] | None, Key(description="Only cells that a cone touches: ra, dec, radius in degrees.")
]
Sources = Annotated[
    dict[str, str] | None, Key(description="Survey -> URL to read it from, instead of where its file in catalogs/ says.")
]
SurveyDirs = Annotated[list[str] | None, Key(description="Folders of further survey files, seen by the flow's process.")]
Cache = Annotated[str | None, Key(description="Folder on each worker where downloads are kept. None: the usual cache folder.")]
Replace = Annotated[bool, Key(description="Build over what the root holds of another recipe of this name.")]
KeepSamples = Annotated[
    bool, Key(description="Keep the encoded samples: the next build then redoes changed cells only. As large as the shards.")
]
BatchUnits = Annotated[int, Key(ge=1, le=4096, description="Most units of one Dask task.")]
PatienceSeconds = Annotated[float, Key(gt=0, description="Seconds without any finished unit after which the run gives up.")]
Metrics = Annotated[str | None, Key(description="Serve Prometheus metrics at this HOST:PORT while it runs.")]
Quiet = Annotated[bool, Key(description="Show no progress on the terminal.")]
Inputs = Annotated[list[str], Key(min_length=1, description="URLs of sets: several become one.")]
OutUrl = Annotated[str, Key(min_length=1, description="Folder or URL where the new version goes.")]
SetUrl = Annotated[str, Key(min_length=1, description="Folder or URL of a version, or of a recipe: then the latest one.")]
Values = Annotated[
    Literal["sampled", "all"], Key(description="Compare the index with the JSON of about 200 samples, or of all of them.")
]
Recipes = Annotated[list[str] | None, Key(description="Clean only what belongs to these recipes. None: to all of the root.")]
DryRun = Annotated[bool, Key(description="Say what would be removed, and remove nothing.")]
