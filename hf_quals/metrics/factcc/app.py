from pathlib import Path

from hf_quals.judges.factcc import FactccScorer
from hf_quals.metrics.parts import factcc_page
from hf_quals.metrics.space import LAUNCH, interface


demo = interface(Path(__file__).parent, FactccScorer.from_pretrained, factcc_page)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
