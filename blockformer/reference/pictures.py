"""Pictures of recipes as SVG, for pages."""

from blockformer.assembly import check
from blockformer.inspection.diagram import diagram, layer_diagram
from blockformer.inspection.rendering import as_svg
from registry import Recipe


def picture_of_model(recipe: Recipe) -> str:
    """The whole model of a recipe."""
    model = check(recipe)
    description = f"{model.kind} model with {model.size:,} parameters, drawn block by block"
    return as_svg(diagram(recipe, model), recipe.name, description)


def picture_of_block(recipe: Recipe, slot: str, name: str) -> str:
    """The layer of a recipe that has a block; the whole model if the block is in no layer."""
    drawing = layer_diagram(check(recipe), slot, name)
    if drawing is None:
        return picture_of_model(recipe)
    return as_svg(drawing, f"{slot} {name}", f"a layer with the {slot} {name}, drawn block by block")
