"""`python -m mmu_pipeline`: the `mmu` command, where it is not on the path."""

from mmu_pipeline.cli import main

main()
