# The service alone: no torch, no client, no compiler in what runs.
ARG PYTHON=python:3.11.14-slim-bookworm
FROM ${PYTHON} AS build
WORKDIR /src
ARG EXTRAS=service,formats,cli
RUN python -m venv /opt/mild
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
# The two client packages belong to the same distribution; empty ones are enough here.
RUN mkdir -p trainer_client/mild_client trainer_client/mild_trainer \
 && touch trainer_client/mild_client/__init__.py trainer_client/mild_trainer/__init__.py
RUN /opt/mild/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check -c constraints.txt \
      ".[${EXTRAS}]" \
 && /opt/mild/bin/pip uninstall --yes --quiet pip setuptools \
 && rm /opt/mild/bin/mild \
 && find /opt/mild -name tests -type d -path '*site-packages*' -prune -exec rm -rf {} +
# Two thirds of pyarrow and scipy are never loaded: clients of RPC and clouds, and all of scipy but its special functions.
RUN cd /opt/mild/lib/python*/site-packages \
 && rm -rf pyarrow/include pyarrow/libarrow_flight* pyarrow/_flight* pyarrow/libarrow_s3* pyarrow/_s3fs* \
 && for copy in pyarrow/libarrow_python.so pyarrow/libarrow_python.so.*.*; do \
      [ ! -f "$copy" ] || ln -sf "$(basename "$(ls pyarrow/libarrow_python.so.* | head -n 1)")" "$copy"; done \
 && find scipy -mindepth 1 -maxdepth 1 -type d ! -name special ! -name _lib -exec rm -rf {} + \
 # Compiled by content, not by time: the same sources give the same files, and nothing is written where it runs.
 && python -m compileall -q --invalidation-mode unchecked-hash -j 2 . \
 && /opt/mild/bin/python -c "import pyarrow.parquet, pyarrow.csv, mild_service.cli, mild_service.app, mild_core.selection"

FROM ${PYTHON}
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin mild \
 # Where logs lie while they are read; a volume mounted here takes over the owner.
 && install -d -o mild /scratch
COPY --from=build /opt/mild /opt/mild
# What a large body took goes back at once; by itself glibc keeps ever larger buffers, in an arena for each thread.
ENV MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=1048576 MALLOC_TRIM_THRESHOLD_=4194304
ENV PATH=/opt/mild/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TMPDIR=/scratch \
    MILD_HOST=0.0.0.0 MILD_PORT=8000
USER mild
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"MILD_PORT\"]}/ready', timeout=2)"]
ENTRYPOINT ["mild-service"]
CMD ["serve"]
