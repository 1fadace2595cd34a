"""What a stage is given, without a run folder."""

from engine.models.spec import resolve, spec_of
from engine.stage import Context, Planning
from schemas.fields import Section
from schemas.sections import Judge, Model


def planning(
    sections: dict[str, Section], name: str, seed: int = 0, reference: Model | None = None
) -> Planning:
    """For the stage `name` of a recipe that has these sections."""

    def resolved():
        assert reference, "the stage looks at a model"
        return resolve(spec_of(reference))

    names = list(sections)
    place = names.index(name)
    return Planning(
        seed=seed,
        above={name: sections[name] for name in names[:place]},
        below={name: sections[name] for name in names[place + 1 :]},
        model=resolved,
        reference=resolved,
    )


def context(reference: Model, name: str = "", model=None) -> Context:
    """For a stage with the recipe's model, or another one under its settings; `model` is what it opens."""
    return Context(
        seed=0,
        model=resolve(spec_of(reference, Judge(model=name))),
        reference=resolve(spec_of(reference)),
        open_model=lambda: model,
    )
