"""Write sdbench/schema/*.json anew from the records; a test fails where they differ."""

from sdbench.schemas import write

if __name__ == "__main__":
    for path in write():
        print(path)
