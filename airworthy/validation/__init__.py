"""Data validation: is this data fit to train and judge a model on?

`validate` and `infer_schema` need TensorFlow Data Validation and run only in its environment; importing this
package, and reading a result back (`read_result`), needs neither.
"""

from airworthy.validation.decision import validate
from airworthy.validation.findings import Finding, ValidationResult, read_result
from airworthy.validation.schema import infer_schema

__all__ = ["Finding", "ValidationResult", "infer_schema", "read_result", "validate"]
