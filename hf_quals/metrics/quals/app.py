from pathlib import Path

from hf_quals import QualsScorer
from hf_quals.metrics.space import LAUNCH, interface
from hf_quals.quals.scorer import QualsResult


demo = interface(Path(__file__).parent, QualsScorer.from_pretrained, QualsScorer.page, picture=QualsResult.plot)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
