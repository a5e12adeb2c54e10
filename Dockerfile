# docker build -t pruning . && docker run -v $PWD/runs:/work/runs -v $PWD/data:/work/data pruning
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir /source && rm -r /source
WORKDIR /work
ENTRYPOINT ["pruning-sweeps"]
