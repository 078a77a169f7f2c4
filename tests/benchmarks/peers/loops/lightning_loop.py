"""Lightning with a DataLoader as it is, without what else it does: no log, no checkpoints, no bar, no summary."""

import logging

import lightning
import torch
from problem import BATCH, DECAY, RATE, EpochEnds, Perceptron, answer, arrays
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
table = TensorDataset(*(torch.from_numpy(array) for array in arrays()))


class Learning(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Perceptron()
        self.loss_of = nn.L1Loss()

    def training_step(self, batch: tuple[Tensor, Tensor], place: int) -> Tensor:
        numbers_NF, target_N = batch
        return self.loss_of(self.network(numbers_NF), target_N)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=DECAY, fused=True)


class Noting(lightning.Callback):
    def __init__(self, ends: EpochEnds) -> None:
        self.ends = ends
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["loss"])

    def on_train_epoch_end(self, trainer, module) -> None:
        self.ends.add(len(table), float(torch.stack(self.losses).mean()))
        self.losses.clear()


def train(epochs: int, ends: EpochEnds) -> None:
    """Train."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Noting(ends)],
    )
    trainer.fit(Learning(), DataLoader(table, batch_size=BATCH, shuffle=True))


if __name__ == "__main__":
    answer(train)
