/** What Keras computed; written by `python -m batchnorm_mechanics.explorer.stored`. */
export const KERAS = {
  keras: "3.15.1",
  called: [[2.9990008, 4.9980016, 6.9970026], [8.996003, 10.995004, 12.994005]],
  training: [[-0.9995558, -0.9995556, -0.9995558], [2.9995556, 2.999556, 2.9995556]],
};
