"""The sales panel: reading any export, cleaning by stated rules, the calendar, and a report of all that was found.

Privacy rule of this package: what is inferred for a series depends on that series' own rows and on facts of the
file's format alone (how cells are written, what columns mean, shape, frequency, the export's period), never on a
sibling series.
"""

from trend_common.panel.load import from_frame, read
from trend_common.panel.model import Finding, Freq, SalesPanel

__all__ = ["Finding", "Freq", "SalesPanel", "from_frame", "read"]
