from pathlib import Path

from hf_quals.judges.qags import QagsScorer
from hf_quals.metrics.parts import qags_page
from hf_quals.metrics.space import LAUNCH, interface


demo = interface(Path(__file__).parent, QagsScorer.from_qagen, qags_page)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
