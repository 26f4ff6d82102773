"""Types and limits of the flows' parameters, as the forms of their deployments check them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field as Key

from mmu_pipeline.words import CLUSTER

Text = Annotated[str, Key(min_length=1)]
ClusterName = Annotated[str, Key(pattern=CLUSTER)]
Cells = list[Annotated[int, Key(ge=0, lt=3072)]]
Cone = tuple[Annotated[float, Key(ge=0, le=360)], Annotated[float, Key(ge=-90, le=90)], Annotated[float, Key(gt=0, le=180)]]
BatchUnits = Annotated[int, Key(ge=1, le=4096)]
Seconds = Annotated[float, Key(gt=0)]
Urls = Annotated[list[str], Key(min_length=1)]
