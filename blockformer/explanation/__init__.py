"""What a model computes for one text, step by step: as data, as a page, and as figures."""

from blockformer.explanation.explanation import Explanation
from blockformer.explanation.forward_pass import explain, explain_subject
from blockformer.explanation.sampling import Limits
from blockformer.explanation.subject import Subject, subject_of

__all__ = ["Explanation", "Limits", "Subject", "explain", "explain_subject", "subject_of"]
