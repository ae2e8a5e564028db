"""Mappers and fusions by name: where the class of each is. Nothing of them is imported for a preset."""

from common.registry import Registry

# Name -> a class derived from trainer.mapper.Mapper.
MAPPERS = Registry(
    "mapper",
    gpt2="trainer.gpt2_mapper:GPT2Mapper",
    diffusion="trainer.diffusion_mapper:DiffusionMapper",
    v2a="trainer.v2a_mapper:V2AMapper",
)
# Name -> a class derived from trainer.fusion.Fusion.
FUSIONS = Registry(
    "fusion",
    concat="trainer.fusion:ConcatFusion",
    add="trainer.fusion:AddFusion",
    cat="trainer.fusion:CatFusion",
)
