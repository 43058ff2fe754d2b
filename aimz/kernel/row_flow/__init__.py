"""Do rows interact: the row axis followed through a traced computation, to a verdict."""

from aimz.kernel.row_flow.verdict import Found, Verdict, follows, judge

__all__ = ["Found", "Verdict", "follows", "judge"]
