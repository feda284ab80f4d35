from pathlib import Path

from hf_quals.metrics.space import interface


demo = interface(Path(__file__).with_name("factcc.py"), return_details=True)

if __name__ == "__main__":
    demo.launch()
