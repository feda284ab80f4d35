from pathlib import Path

from hf_quals.judges.entities import EntityScorer
from hf_quals.metrics.parts import entity_page
from hf_quals.metrics.space import LAUNCH, interface


demo = interface(Path(__file__).parent, EntityScorer, entity_page)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
