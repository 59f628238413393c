"""What the sections of a model spec are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ServiceName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")]
Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["block", "warn", "ignore"]
Days = Annotated[float, Field(gt=0, le=36_500)]


class Section(BaseModel):
    """Part of a spec: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
